"""Article markup to prose: paragraphs, section titles and list items, one a line.

One pass from left to right removes what is dropped with its content (comments, references, formulas, code); a second
keeps a stack of open templates, tables and links, of bounded depth; the rest is done line by line. Every pass takes
time in proportion to the text, even if markup never closes.
"""

import html
import re
from collections.abc import Callable, Mapping
from functools import partial

from data_prep.sources.wikitemplates import words

DEPTH = 40  # of nested markup, as in MediaWiki; deeper markup loses its marks and keeps its words

# Content and all. <table> is HTML's; a wiki's own tables are {| … |}.
_DROPPED = """ref references math chem ce gallery timeline syntaxhighlight source score graph mapframe maplink imagemap
hiero templatedata inputbox categorytree pre includeonly style script table templatestyles indicator""".split()
_RAW = re.compile(rf"<!--|<(nowiki|{'|'.join(_DROPPED)})\b([^<>]*)>", re.I)
_BLOCK_TAG = re.compile(r"</?(?:p|div|li|ul|ol|dl|dd|dt|hr|center|blockquote|poem|h[1-6]|section)\b[^<>]*>", re.I)
_TAG = re.compile(
    rf"<br\b[^<>]*>|</?(?:nowiki|noinclude|onlyinclude|span|font|small|big|sub|sup|b|i|u|s|em|strong|strike|del|ins|tt|"
    rf"code|kbd|samp|var|cite|q|abbr|bdi|bdo|mark|ruby|rb|rt|rp|rtc|time|data|dfn|wbr|tr|td|th|tbody|caption|thead|"
    rf"tfoot|col|colgroup|a|img|languages|translate|tvar|section|{'|'.join(_DROPPED)})\b[^<>]*>|</?ref\b[^<>]*",
    re.I,
)
_MARK = re.compile(r"\{\{+|\}\}+|\[\[|\]\]+|\{\||\|\}+")
_LINE_START = re.compile(r"(?:^|\n)[ \t:*#;]*$")
_UNIT_END = re.compile(r"\n[ \t]*(?:\n|=)")
_LANGUAGE_PREFIX = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*|simple")
_VARIANT = re.compile(r"-\{(?:[^{}|]*\|)?([^{}]*)\}-")
_SWITCH = re.compile(r"__([^\W\d_]+)__")
_EXTERNAL = re.compile(r"\[(?:https?:|ftps?:|mailto:|news:|irc:|//)[^\s\[\]<>\"]*[ \t]*([^\[\]]*)\]", re.I)
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

_FILES = "file image media datei bild fichier archivo imagen immagine ficheiro imagem bestand afbeelding plik grafika"
_CATEGORIES = "category kategorie catégorie categoría categoria categorie kategoria"
DROPPED_NAMESPACES = frozenset(f"{_FILES} {_CATEGORIES}".split())


def dropped_namespaces(names: Mapping[int, str]) -> frozenset[str]:
    """The lower-case prefixes of links that show no words, given a wiki's names of its namespaces by number."""
    return DROPPED_NAMESPACES | {names[number].lower() for number in (-2, 6, 14) if names.get(number)}


def prose(wikitext: str, dropped: frozenset[str] = DROPPED_NAMESPACES) -> str:
    """The words of an article, a paragraph, section title or list item a line; see :func:`dropped_namespaces`."""
    text = _nested(_without_raw(wikitext), dropped)
    headings: list[tuple[int, str]] = []  # titles of sections in which nothing was found so far
    lines: list[str] = []
    for line in _BLOCK_TAG.sub("\n", text).split("\n"):
        if level := _heading_level(line):
            headings = [(above, title) for above, title in headings if above < level]
            if title := _words(line.strip()[level:-level]):
                headings.append((level, title))
        elif content := _words(line):
            lines += [title for _, title in headings]
            lines.append(content)
            headings = []
    return "\n".join(lines)


def _heading_level(line: str) -> int:
    """The number of equals signs around a section title; 0 for any other line."""
    line = line.strip()
    if not line.startswith("=") or not line.endswith("="):
        return 0
    title = line.strip("=")
    before = line.find(title)
    return min(before, len(line) - before - len(title), 6) if title else 0


def _without_raw(text: str) -> str:
    """Take out comments and tags whose content is no wikitext; what is in <nowiki> becomes entities."""
    parts: list[str] = []
    position = 0
    closers: dict[str, tuple[int, int]] = {}  # where the next end of each kind of tag was found
    while start := _RAW.search(text, position):
        parts.append(text[position : start.start()])
        name = (start[1] or "--").lower()
        position = start.end()
        if (start[2] or "").endswith("/"):
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
        if name == "nowiki":
            parts.append(_NOWIKI.sub(lambda mark: f"&#{ord(mark[0])};", text[position:begin]))
        position = end
    parts.append(text[position:])
    return "".join(parts)


_CLOSERS = {name: re.compile(rf"</{name}\s*>", re.I) for name in [*_DROPPED, "nowiki"]} | {"--": re.compile("-->")}
_RAW_REF = re.compile(r"<ref\b[^<>]*(?<!/)>", re.I)
_NOWIKI = re.compile(r"[\[\]{}|<>'=*#:;_]")


def _nested(text: str, dropped: frozenset[str]) -> str:
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

    def pop(resolve: Callable[[str, str, frozenset[str]], str]) -> str:
        mark, parts = stack.pop()
        stack[-1][1].append(resolve(mark, "".join(parts), dropped))
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
    stack[-1][1].append(text[position:])
    while len(stack) > 1:
        pop(_unclosed)
    return "".join(stack[0][1])


# What an element cannot be closed across: a link holds no open template or table, a table no open template.
_WALLS = {"[[": ("{{", "{|"), "{|": ("{{",), "{{": ()}


def _closed(mark: str, content: str, dropped: frozenset[str]) -> str:
    if mark == "{|":
        return ""
    if mark == "{{":
        name, *arguments = content.split("|")
        return words(" ".join(name.replace("_", " ").lower().split()), arguments)
    target, bar, label = content.partition("|")
    target = target.strip()
    prefix, colon, _ = target.partition(":")
    if colon and " ".join(prefix.replace("_", " ").lower().split()) in dropped:
        return ""
    if "\n" in target:
        return content
    if colon and not bar and _LANGUAGE_PREFIX.fullmatch(prefix):
        return ""  # the same article in another language
    return label if bar and label.strip() else target.lstrip(":#").replace("_", " ")


def _unclosed(mark: str, content: str, dropped: frozenset[str]) -> str:
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


# What is taken out of a line that has a mark, in this order.
_INLINE: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("<", partial(_TAG.sub, lambda tag: " " if tag[0][:3].lower() == "<br" else "")),
    ("''", _without_quotes),
    ("[", partial(_EXTERNAL.sub, r"\1")),
    ("-{", partial(_VARIANT.sub, lambda variant: variant[1].partition(";")[0].rpartition(":")[2])),
    ("__", partial(_SWITCH.sub, lambda switch: "" if switch[1] == switch[1].upper() else switch[0])),
    ("&", html.unescape),
)
