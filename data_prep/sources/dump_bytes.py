"""The bytes of a MediaWiki dump, unpacked: plain, .bz2 (one stream or many), .gz or .xz, told apart by content.

A dump is cut into pieces without unpacking it: anywhere if it is plain, between two streams if it is bzip2. Pages
may cross the cuts (they do in what pbzip2 packs), so a piece can be read on beyond its end; see ``dump.py``.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_prep.problems import Problems
from data_prep.sources import Piece

PLAIN_PIECE = 128 << 20
BZ2_PIECE = 32 << 20  # about as much text as PLAIN_PIECE
_READ = 1 << 16  # packed bytes at a time; bz2 copies what is left of them at every end of a stream
_UNPACK = 1 << 20  # unpacked bytes at a time, whatever the ratio
# A stream starts with a block or, if it is empty, with the end mark. 10 bytes do not occur by chance.
_BZ2_STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
_MAGIC_BYTES = 10


class Chunk(NamedTuple):
    """Consecutive bytes, or None where bytes are missing; ``own`` is False behind the end of the piece."""

    data: bytes | None
    own: bool


def packing(path: Path) -> str:
    """``bz2``, ``gz``, ``xz`` or, for everything else, ``plain``."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, name in ((b"BZh", "bz2"), (b"\x1f\x8b", "gz"), (b"\xfd7zXZ\0", "xz")):
        if start.startswith(magic):
            return name
    return "plain"


def pieces(path: Path, piece_bytes: int | None = None) -> list[Piece]:
    """Cuts a dump into pieces of about ``piece_bytes`` on disk; .gz, .xz and single-stream .bz2 are one piece.

    Args:
        piece_bytes: by default 32 MB of bzip2 or 128 MB of plain XML.
    """
    size = path.stat().st_size
    kind = packing(path)
    step = piece_bytes or (BZ2_PIECE if kind == "bz2" else PLAIN_PIECE)
    cuts = [0]
    if kind == "plain":
        cuts += range(step, size, step)
    elif kind == "bz2":
        with path.open("rb") as file:
            while (cut := next_bz2_stream(file, cuts[-1] + step)) is not None:
                cuts.append(cut)
    ends = [*cuts[1:], size]
    return [Piece(path, end - start, start, end) for start, end in zip(cuts, ends, strict=True)]


def chunks(piece: Piece, problems: Problems) -> Iterator[Chunk]:
    """The unpacked bytes of a piece and, as long as they are asked for, of what stands behind it.

    Damage within the piece is reported; behind it, that is left to the next piece.
    """
    kind = packing(piece.path)
    end = piece.path.stat().st_size if piece.end is None else piece.end
    with piece.path.open("rb") as file:
        if kind == "plain":
            file.seek(piece.start)
            for stop, own in ((end, True), (None, False)):
                while data := file.read(_UNPACK if stop is None else min(_UNPACK, stop - file.tell())):
                    yield Chunk(data, own)
        elif kind == "bz2":
            yield from _bz2_chunks(file, piece, end, problems)
        else:
            yield from _whole(file, kind, piece.path, problems)


def _whole(file: BinaryIO, kind: str, path: Path, problems: Problems) -> Iterator[Chunk]:
    unpacked = gzip.open(file) if kind == "gz" else lzma.open(file)
    done = 0
    try:
        while data := unpacked.read1(_UNPACK):  # unlike read(), gives all that comes before damage
            done += len(data)
            yield Chunk(data, True)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        problems.report(f"{path}, after unpacked byte {done}", f"the .{kind} is cut off or damaged ({error})")
        yield Chunk(None, True)


def _bz2_chunks(file: BinaryIO, piece: Piece, end: int, problems: Problems) -> Iterator[Chunk]:
    start: int | None = piece.start
    while start is not None:
        own = start < end
        try:
            behind = yield from _bz2_stream(file, start, own)
            damage = "" if _BZ2_STREAM.match(_peek(file, behind)) else "what follows is not a bzip2 stream"
            at_end = not _peek(file, behind)
        except (OSError, EOFError) as error:  # bz2 reports damage as a plain OSError
            behind, damage, at_end = start + 1, f"the .bz2 is cut off or damaged ({error})", False
        if at_end:
            return
        if damage:
            if own:
                problems.report(f"{piece.path}, bzip2 stream at byte {start}", damage)
            yield Chunk(None, own)
        start = next_bz2_stream(file, behind)


def _bz2_stream(file: BinaryIO, start: int, own: bool) -> Generator[Chunk, None, int]:
    """Yields what one stream holds; returns the position behind it."""
    file.seek(start)
    unpacker = bz2.BZ2Decompressor()
    while not unpacker.eof:
        packed = file.read(_READ) if unpacker.needs_input else b""
        if unpacker.needs_input and not packed:
            raise EOFError("it ends within a stream")
        if data := unpacker.decompress(packed, _UNPACK):
            yield Chunk(data, own)
    return file.tell() - len(unpacker.unused_data)


def _peek(file: BinaryIO, position: int) -> bytes:
    file.seek(position)
    return file.read(_MAGIC_BYTES)


def next_bz2_stream(file: BinaryIO, position: int) -> int | None:
    """The first start of a bzip2 stream at or behind ``position``."""
    file.seek(position)
    kept = b""
    while data := file.read(_UNPACK):
        data = kept + data
        if found := _BZ2_STREAM.search(data):
            return file.tell() - len(data) + found.start()
        kept = data[1 - _MAGIC_BYTES :]
    return None
