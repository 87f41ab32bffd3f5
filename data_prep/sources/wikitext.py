"""Article markup to prose: paragraphs, section titles and list items, one a line.

One pass removes what is dropped with its content (comments, references, code); a second keeps a stack of open
templates, tables and links, of bounded depth; the rest is done line by line. Each takes time in proportion to the text,
even if markup never closes.
"""

import html
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from data_prep.config import MATH
from data_prep.sources.mediawiki import Wiki, named, wiki
from data_prep.sources.wikitemplates import words

DEPTH = 40  # of nested markup, as in MediaWiki; deeper markup loses its marks and keeps its words

# Content and all. <table> is HTML's; a wiki's own tables are {| … |}.
_FORMULAS = ["math", "chem", "ce"]
_DROPPED = """ref references gallery timeline syntaxhighlight source score graph mapframe maplink imagemap hiero
templatedata inputbox categorytree pre includeonly style script table templatestyles indicator rt rp rtc""".split()
_RAW = re.compile(rf"<!--|<(nowiki|{'|'.join([*_FORMULAS, *_DROPPED])})\b([^<>]*)>", re.I)
_BLOCK_TAG = re.compile(r"</?(?:p|div|li|ul|ol|dl|dd|dt|hr|center|blockquote|poem|h[1-6]|section)\b[^<>]*>", re.I)
_TAG = re.compile(
    rf"<br\b[^<>]*>|</?(?:nowiki|noinclude|onlyinclude|span|font|small|big|sub|sup|b|i|u|s|em|strong|strike|del|ins|tt|"
    rf"code|kbd|samp|var|cite|q|abbr|bdi|bdo|mark|ruby|rb|time|data|dfn|wbr|tr|td|th|tbody|caption|thead|"
    rf"tfoot|col|colgroup|a|img|languages|translate|tvar|section|{'|'.join([*_FORMULAS, *_DROPPED])})\b[^<>]*>"
    r"|</?ref\b[^<>]*",
    re.I,
)
_HEADING = re.compile(r"(={1,6})(=*[^=].*)\1")
_MARK = re.compile(r"\{\{+|\}\}+|\[\[|\]\]+|\{\||\|\}+")
_LINE_START = re.compile(r"(?:^|\n)[ \t:*#;]*$")
_UNIT_END = re.compile(r"\n[ \t]*(?:\n|=)")
_LANGUAGE_PREFIX = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*|simple")
_FILE_NAME = re.compile(
    r"[^\n]+\.(?:jpe?g|png|svg|gif|tiff?|webp|xcf|pdf|djvu|og[gva]|webm|mp[34]|wav|flac|midi?|stl)", re.I
)
_VARIANT = re.compile(r"-\{(?:([^{}|]*)\|)?([^{}]*)\}-")
# The text of the first variant; the name of the next one begins like its own.
_FIRST_VARIANT = re.compile(r"\s*([a-z]{2,3})(?:-[a-z]+)*\s*:(.*?)(?:;\s*(?:\1(?:-[a-z]+)*\s*:|\Z)|\Z)", re.S)
_SWITCH = re.compile(r"(?<!_)__([^\s_]\S{0,60}?)__(?!_)")
_EXTERNAL = re.compile(
    r"\[(?:https?:|ftps?:|mailto:|news:|irc:|//)[^\s\[\]<>\"]*+[ \t]*+((?:[^\[\]]|\[[^\[\]]*+\])*+)\]", re.I
)
# Repetitions are bounded, so that a line of nothing but commas takes no longer than others.
_EMPTY_BRACKETS = re.compile(r"\s?(?:\([\s,;:–—-]{0,16}\)|（[\s，、；：,;]{0,16}）|\[\s?\])")
_AFTER_OPEN = re.compile(r"([(（])\s?(?:[,;:，、；：](?:\s|$)\s?){0,8}")
_BEFORE_CLOSE = re.compile(r"(?:\s?[,;，、；]){1,8}\s?(?=[)）])|\s(?=[)）])")
_LONE_SEPARATOR = re.compile(r"\s([,.])(?=\s|$)")
_DOUBLE_SEPARATOR = re.compile(r"([,;])(?:\s?[,;]){1,8}(?=\s)")
# May remain, or come out of entities: a space is put in, so that nothing takes it for markup again.
_LOOKS_LIKE_MARKUP = re.compile(r"(?<=\{)(?=[{|])|(?<=\})(?=\})|(?<=\[)(?=\[)|(?<=\])(?=\])|(?<=\|)(?=-)|(?<=<)(?=ref)")
_ALPHANUMERIC = re.compile(r"[^\W_]")
_SUSPECT = re.compile(r"\{[{|]|\}\}|\[\[|\]\]|\|-|<ref", re.I)

FORMULA = "[formula]"
_NO_WORDS = re.compile(rf"(?:{re.escape(FORMULA)}|[\W_])+")


class Page(NamedTuple):
    """What the meaning of a page's markup depends on."""

    wiki: Wiki
    title: str = ""
    math: str = MATH[0]


def prose(wikitext: str, page: Page | None = None) -> str:
    """The words of an article, a paragraph, section title or list item a line.

    `FORMULA`, the source or nothing stands for a formula, as `page.math` says. A lone one belongs to the line before.
    """
    page = page or Page(wiki())
    text = _nested(_without_raw(wikitext, page.math), page)
    for _ in range(4 if "}-" in text else 0):  # a variant may span lines, and hold others
        text = _VARIANT.sub(_variant, text)
    headings: list[tuple[int, str]] = []  # titles of sections in which nothing was found so far
    lines: list[str] = []
    for line in _BLOCK_TAG.sub("\n", text).split("\n"):
        if heading := _HEADING.fullmatch(line.strip()):
            level = len(heading[1])
            headings = [(above, title) for above, title in headings if above < level]
            if title := _words(heading[2]):
                headings.append((level, title))
        elif not (content := _words(line)):
            continue
        elif FORMULA in content and _NO_WORDS.fullmatch(content):
            if lines and not headings and not lines[-1].endswith(content):
                lines[-1] += f" {content}"
        else:
            lines += [title for _, title in headings]
            lines.append(content)
            headings = []
    return "\n".join(lines)


def _without_raw(text: str, math: str) -> str:
    """Take out comments and tags whose content is no wikitext; what is in <nowiki>, or a formula, becomes entities."""
    parts: list[str] = []
    position = 0
    closers: dict[str, tuple[int, int]] = {}  # where the next end of each kind of tag was found
    while start := _RAW.search(text, position):
        parts.append(text[position : start.start()])
        name = (start[1] or "--").lower()
        position = start.end()
        if start[2] and start[2].endswith("/"):
            continue
        begin, end = closers.get(name, (-1, -1))
        if begin < position:
            closer = _CLOSERS[name].search(text, position)
            begin, end = closers[name] = closer.span() if closer else (len(text) + 1, len(text) + 1)
        if begin > len(text):  # never closed: only the mark goes
            continue
        if name == "ref" and (again := _RAW_REF.search(text, position, begin)):
            # Not closed before the next one: it ends with its paragraph.
            unit = _UNIT_END.search(text, position, again.start())
            position = unit.start() if unit else again.start()
            continue
        if name == "nowiki" or (name in _FORMULAS and math == "text"):
            inner = text[position:begin] if name == "nowiki" else " ".join(text[position:begin].split())
            parts.append(_NOWIKI.sub(lambda mark: f"&#{ord(mark[0])};", inner))
        elif name in _FORMULAS and math == "placeholder":
            parts.append(FORMULA)
        position = end
    parts.append(text[position:])
    return "".join(parts)


_CLOSERS = {name: re.compile(rf"</{name}\s*>", re.I) for name in [*_FORMULAS, *_DROPPED, "nowiki"]}
_CLOSERS["--"] = re.compile("-->")
_RAW_REF = re.compile(r"<ref\b[^<>]*(?<!/)>", re.I)
_NOWIKI = re.compile(r"[\[\]{}|<>'=*#:;_]")


def _nested(text: str, page: Page) -> str:
    """Resolve templates, tables and links, innermost first."""
    stack: list[tuple[str, list[str]]] = [("", [])]  # mark that opened it, parts of its content

    def close(mark: str, times: int) -> bool:
        """Close the innermost element that ``mark`` opened, and what is open in it; False if there is none."""
        for _ in range(min(times, DEPTH)):
            if next((opened for opened, _ in reversed(stack) if opened == mark or opened in _WALLS[mark]), "") != mark:
                return False
            while pop(_closed if stack[-1][0] == mark else _unclosed) != mark:
                pass
        return True

    def pop(resolve: Callable[[str, str, Page], str]) -> str:
        mark, parts = stack.pop()
        stack[-1][1].append(resolve(mark, "".join(parts), page))
        return mark

    position = 0
    for found in _MARK.finditer(text):
        mark, parts = found[0], stack[-1][1]
        parts.append(text[position : found.start()])
        position = found.end()
        starts_line = "|" in mark and _LINE_START.search(text, max(0, found.start() - 20), found.start())
        if mark == "{|" and not starts_line:
            parts.append(mark)
        elif mark[0] in "{[":
            if len(mark) % 2 and text.endswith("-", 0, found.start()):  # "-{" and a template
                parts.append("{")
            stack += [(mark[:2], []) for _ in range(min(len(mark) // 2, DEPTH + 1 - len(stack)))]
        elif mark[0] == "]":
            bracket = "]" * (len(mark) % 2)
            if "[" in parts[-1]:  # "[[File:…|caption [http://… label]]]"
                parts.append(bracket)
                bracket = ""
            close("[[", len(mark) // 2)
            stack[-1][1].append(bracket)
        elif starts_line and close("{|", 1):
            close("{{", len(mark) // 2 - 1)
        elif mark[0] == "|" and len(mark) % 2 == 0:
            parts.append(mark)
        else:
            close("{{", mark.count("}") // 2)
            if len(mark) % 2 and text.startswith("-", position):
                stack[-1][1].append("}")
    stack[-1][1].append(text[position:])
    while len(stack) > 1:
        pop(_unclosed)
    return "".join(stack[0][1])


# What an element cannot be closed across: a link holds no open template or table, a table no open template.
_WALLS = {"[[": ("{{", "{|"), "{|": ("{{",), "{{": ()}


def _closed(mark: str, content: str, page: Page) -> str:
    if mark == "{|":
        return ""
    if mark == "{{":
        name, *arguments = content.split("|")
        return words(" ".join(name.replace("_", " ").lower().split()), arguments, page.wiki.language, page.title)
    target, bar, label = content.partition("|")
    target = target.strip()
    prefix, colon, _ = target.partition(":")
    if colon and (
        " ".join(prefix.replace("_", " ").lower().split()) in page.wiki.dropped
        or (not target.startswith(":") and _FILE_NAME.fullmatch(target))  # the name of the namespace is unknown
    ):
        return ""
    if "\n" in target:
        return content
    if colon and not bar and _LANGUAGE_PREFIX.fullmatch(prefix):
        return ""  # the same article in another language
    return label if bar and label.strip() else target.lstrip(":#").replace("_", " ")


def _unclosed(mark: str, content: str, page: Page) -> str:
    """Markup that never ends: a link keeps its words, a template or table goes up to the end of its paragraph."""
    if mark == "[[":
        target, bar, label = content.partition("|")
        return label if bar and "\n" not in target else content
    end = _UNIT_END.search(content)
    return content[end.start() :] if end else ""


def _words(line: str) -> str:
    """The words of one line, or none if only marks remain."""
    line = line.strip().lstrip("*#:;").strip()
    if line.startswith("|") or not line:
        return ""
    for mark, without in _INLINE:
        if mark in line:
            line = without(line)
    line = " ".join(line.split())
    if "(" in line or "（" in line or "[" in line:
        line = _AFTER_OPEN.sub(r"\1", _EMPTY_BRACKETS.sub("", line))
        line = _BEFORE_CLOSE.sub("", line)
    if " ," in line or " ." in line or ",," in line:
        line = _DOUBLE_SEPARATOR.sub(r"\1", _LONE_SEPARATOR.sub(r"\1", line))
    if _SUSPECT.search(line):
        line = _LOOKS_LIKE_MARKUP.sub(" ", line)
    return line.strip() if _ALPHANUMERIC.search(line) else ""


def _without_quotes(line: str) -> str:
    """Take out the quotes of bold and italic print and leaves the apostrophes: of ``l'''eau''``, one."""
    runs = [len(quotes) for quotes in re.findall("''+", line)]
    italic = sum(run == 2 or run >= 5 for run in runs)
    bold = sum(run in (3, 4) or run >= 5 for run in runs)
    if italic % 2 and bold % 2:  # MediaWiki's rule: one bold mark is an apostrophe before an italic one
        line = re.sub(r"(?<=\w)'''(?!')", "'", line, count=1)
    # Four in a row mostly hold a template that is gone, so nothing of them stays.
    return re.sub("''+", lambda quotes: "'" * (len(quotes[0]) - 5), line)


def _variant(found: re.Match[str]) -> str:
    """What `-{flags|zh-hans:…;zh-hant:…}-` shows: the first variant, or nothing if it only sets a rule or the title."""
    flags, rule = (found[1] or "").upper().split(";"), found[2]
    if {"H", "T", "-"} & {flag.strip() for flag in flags}:
        return ""
    first = None if "R" in flags else _FIRST_VARIANT.match(rule)
    return first[2].strip() if first else rule


def _switch(found: re.Match[str]) -> str:
    """Nothing for `__NOTOC__` in any language, and for what extensions understand, which is in capitals."""
    return "" if found[1].lower() in named("switches") or (found[1].isupper() and found[1].isalpha()) else found[0]


# What is taken out of a line that has a mark, in this order.
_INLINE: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("<", partial(_TAG.sub, lambda tag: " " if tag[0][:3].lower() == "<br" else "")),
    ("''", _without_quotes),
    ("[", partial(_EXTERNAL.sub, r"\1")),
    ("__", partial(_SWITCH.sub, _switch)),
    ("&", html.unescape),
)
