"""Repairs of a text: broken Unicode, and lines that are not part of it (licences, notices, buttons, markup)."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

import ftfy

from data_prep.corpus import tidy
from data_prep.text.scripts import ends_sentence, measure

# UTF-8 that was decoded as Latin-1 or Windows-1252 shows as a letter from Â to ô before one of these; a code page's
# own C1 characters (U+0080 to U+009F) never occur in good text.
_MOJIBAKE = re.compile("[\u00c2-\u00f4][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|[\u0080-\u009f]")

# Characters without a shape: controls, soft hyphens, byte order marks, zero width and direction marks, tags, private
# use, lone surrogates, non-characters. Zero-width (non-)joiners stay where they change how a word is written: after
# letters of Arabic, Mongolian and the scripts of India and of South-East Asia, and in emoji. So do
# Mongolian's vowel separator, the tags of a flag, and the space of no width where it is all that separates words: in
# Thai, Lao, Tibetan, Myanmar, Khmer and their neighbours.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000e-\u001b\u001f\u007f-\u009f\u00ad\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff0-\ufffb\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff\ue000-\uf8ff"
    "\U000e0000-\U000e001f\U000e0080-\U000e00ff\U000e01f0-\U0010ffff]"
    "|(?<![\u0600-\u109f\u1780-\u1cff\ua800-\uabff\U00010a00-\U00011fff\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])"
    "[\u200c\u200d]|(?<![\u1820-\u18aa])\u180e|(?<![\U0001f3f4\U000e0020-\U000e007e])[\U000e0020-\U000e007f]+"
    "|(?<![\u0e00-\u109f\u1780-\u17ff\u1950-\u1aaf\u1b00-\u1b7f\ua980-\uaadf])\u200b"
)

# Each line that matches one of these is removed.
MARKUP = r"(?:<[^<>]{1,40}>\s*)+"  # nothing but tags, such as <br>
# C4's policy lines, English.
WEB_POLICY = r".*\b(?:terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies)\b.*"
WEB_SCRIPT = r".*\bjavascript\b.*"

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


def normalize(text: str) -> str:
    """Repaired text in NFC and in the form of a corpus: paragraphs, one a line, single spaces, no empty lines.

    Typographic quotes, ligatures and full-width letters stay as they are. Most texts need no repair, so a search that
    is much cheaper comes before each repair.
    """
    if not text.isascii():
        if _MOJIBAKE.search(text):
            text = "\n".join(ftfy.fix_encoding(line) if _MOJIBAKE.search(line) else line for line in text.split("\n"))
        text = unicodedata.normalize("NFC", text)
    text = tidy(text.splitlines())
    # To Python, no invisible character is printable, and the check costs almost nothing.
    if not text.replace("\n", "").isprintable():
        text = tidy(_INVISIBLE.sub("", text).split("\n"))
        text = unicodedata.normalize("NFC", text)
    return text


def without_boilerplate(text: str, rules: LineRules) -> tuple[str, Counter[str]]:
    """The text without the lines that the rules name, and the number of lines removed by reason."""
    removed: Counter[str] = Counter()
    if rules.gutenberg and "GUTENBERG" in text:
        lines = text.count("\n")
        start = _GUTENBERG_START.search(text)
        text = text[start.end() :] if start else text
        end = _GUTENBERG_END.search(text)
        if end and (start or end.start() > len(text) // 2):
            text = text[: end.start()].rstrip("\n")
        removed["Project Gutenberg"] = lines - text.count("\n")
    patterns = [*rules.boilerplate, *((WEB_POLICY, WEB_SCRIPT) if rules.web else ())]
    if patterns:
        whole_line = rf"^(?:{'|'.join(patterns)})(?:\n|\Z)"
        text, removed["boilerplate"] = re.subn(whole_line, "", text, flags=re.IGNORECASE | re.MULTILINE)
    if rules.sentences:
        given = text.split("\n")
        kept = [line for line in given if measure(line).words > 4 and (ends_sentence(line) or line[-1] in '"”')]
        text, removed["no sentence"] = "\n".join(kept), len(given) - len(kept)
    return text.strip("\n"), +removed
