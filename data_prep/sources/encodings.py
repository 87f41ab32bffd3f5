"""Text that is not UTF-8: read in the encoding that a setting names, which a message proposes."""

import codecs
from typing import BinaryIO

from data_prep.corpus import take
from data_prep.sources.files import read_block
from linformer_fairseq.errors import UsageError

SAMPLE = 1 << 15  # bytes that are enough to tell an encoding
# Of those that text is in: a guess among all encodings is worse.
_COMMON = """cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 cp874 koi8_r cp866 gb18030 big5 cp932 euc_jp
cp949""".split()
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

# Bytes that an encoding does not have become half a character, which UTF-8 refuses: so their line is reported.
codecs.register_error("data_prep_half", lambda error: ("\udcff", getattr(error, "end", 0)))


def check_encoding(name: str | None) -> None:
    """Raise UsageError if a name is no encoding of text."""
    try:
        "a".encode(name or "utf-8")
    except LookupError as error:
        raise UsageError(
            f"--encoding {name}: unknown; give a name that Python knows, such as cp1251, gb18030, shift_jis or utf-16"
        ) from error


class AsUtf8:
    """The bytes of a file, recoded from another encoding."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("data_prep_half")

    def read(self, size: int) -> bytes:
        """About `size` bytes, none at the end."""
        text = ""
        while not text and (block := read_block(self._file, size)):
            text = self._decoder.decode(block)
        return (text or self._decoder.decode(b"", True)).encode("utf-8", "surrogatepass")


def likely_encoding(block: bytes) -> str:
    """The encoding that a part of a file is likely to have; empty if it cannot be told, or mostly UTF-8."""
    if block.startswith(_UTF16):
        return "utf-16"
    even, odd = block[::2].count(0), block[1::2].count(0)  # of UTF-16, at least the line ends have a NUL
    if even or odd:
        return "utf-16-le" if odd > 10 * even else "utf-16-be" if even > 10 * odd else ""
    lines = [line for line in block.split(b"\n") if not line.isascii()]
    if 2 * sum(line.decode(errors="ignore").encode() == line for line in lines) >= len(lines):
        return ""
    sample = b"\n".join(take(iter(lines), SAMPLE))
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=_COMMON).best()
    return best.encoding if best else ""
