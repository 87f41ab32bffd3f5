"""Lines that are not part of a document's text: licences, notices, buttons, markup."""

import functools
import re
from collections import Counter
from dataclasses import dataclass

# Each line that matches one of these is removed.
MARKUP = r"(?:<[^<>]{1,40}>\s*)+"  # nothing but tags, such as <br>

# C4's policy lines, English.
WEB_POLICY = r".*\b(?:terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies)\b.*"
WEB_SCRIPT = r".*\bjavascript\b.*"

_END_MARKS = (".", "?", "!", '"', "”", "…")

_GUTENBERG_START = re.compile(
    r"[^\n]*\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG EBOOK[^*]{0,400}\*\*\*\n?"
    r"(?:(?:Produced|E-text prepared|This eBook was produced) by [^\n]*\n)?",
    re.IGNORECASE,
)
_GUTENBERG_END = re.compile(
    r"\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG EBOOK|^End of (?:the )?Project Gutenberg(?:'s|’s)? ",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass
class LineRules:
    """Which lines are removed."""

    boilerplate: tuple[str, ...] = (MARKUP,)  # regular expressions for whole lines, in any case of letters
    gutenberg: bool = True  # what Project Gutenberg puts before and after its books
    web: bool = False  # English web pages only: lines on cookies, terms and scripts (C4); encyclopedias have good ones
    sentences: bool = False  # web pages only: lines without an end mark or of fewer than five words (C4)


def without_boilerplate(text: str, rules: LineRules) -> tuple[str, Counter[str]]:
    """The text without the lines that the rules name, and the number of lines removed by reason."""
    removed: Counter[str] = Counter()
    if rules.gutenberg and "GUTENBERG" in text:
        text, removed["Project Gutenberg"] = _without_gutenberg(text)
    patterns = tuple(rules.boilerplate) + ((WEB_POLICY, WEB_SCRIPT) if rules.web else ())
    if patterns:
        text, removed["boilerplate"] = _compiled(patterns).subn("", text)
    if rules.sentences:
        lines = text.split("\n")
        kept = [line for line in lines if line.endswith(_END_MARKS) and line.count(" ") >= 4]
        text, removed["no sentence"] = "\n".join(kept), len(lines) - len(kept)
    return text.strip("\n"), +removed


@functools.cache
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"^(?:" + "|".join(patterns) + r")(?:\n|\Z)", re.IGNORECASE | re.MULTILINE)


def _without_gutenberg(text: str) -> tuple[str, int]:
    lines = text.count("\n")
    start = _GUTENBERG_START.search(text)
    if start:
        text = text[start.end() :]
    end = _GUTENBERG_END.search(text)
    if end and (start or end.start() > len(text) // 2):
        text = text[: end.start()].rstrip("\n")
    return text, lines - text.count("\n")
