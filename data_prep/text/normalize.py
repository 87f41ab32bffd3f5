"""Unicode repaired: text decoded with the wrong code page, invisible characters, several ways to write one letter.

Most texts need no repair, so a search that is much cheaper comes before each repair.
"""

import re
import unicodedata

import ftfy

from data_prep.corpus import tidy

# UTF-8 that was decoded as Latin-1 or Windows-1252 shows as a letter from Â to ô before one of these; a code page's
# own C1 characters (U+0080 to U+009F) never occur in good text.
_MOJIBAKE = re.compile("[\u00c2-\u00f4][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|[\u0080-\u009f]")

# Characters without a shape: controls, soft hyphens, byte order marks, zero width and direction marks, tags, private
# use, lone surrogates, non-characters. Zero-width (non-)joiners stay where they change how a word is written: after
# Arabic, Indic, Myanmar, Khmer and Mongolian letters, and in emoji.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000e-\u001b\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff0-\ufffb\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff\ue000-\uf8ff\U000e0000-\U0010ffff]"
    "|(?<![\u0600-\u109f\u1780-\u18af\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]"
)


def normalize(text: str) -> str:
    """Repaired text in NFC and in the form of a corpus: paragraphs, one a line, single spaces, no empty lines.

    Typographic quotes, ligatures and full-width letters stay as they are.
    """
    if not text.isascii():
        if _MOJIBAKE.search(text):
            text = "\n".join(ftfy.fix_encoding(line) if _MOJIBAKE.search(line) else line for line in text.split("\n"))
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
    text = tidy(text.splitlines())
    # To Python, no invisible character is printable, and the check costs almost nothing.
    if not text.replace("\n", "").isprintable():
        text = tidy(_INVISIBLE.sub("", text).split("\n"))
        text = unicodedata.normalize("NFC", text)
    return text
