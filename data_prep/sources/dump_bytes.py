"""The unpacked bytes of a MediaWiki dump, in pieces: plain, .bz2 (one stream or many), .gz, .xz or .zst.

A dump is cut into pieces without unpacking it: anywhere if it is plain, between two streams if it is bzip2. Pages
may cross the cuts (they do in what pbzip2 packs), so reading may continue beyond the end of a piece; see ``dump.py``.
"""

import bz2
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_prep.sources import Piece, ReadErrors
from data_prep.sources.files import BZ2_STREAM, READ_ERRORS, fault, open_file, opened, packing, read_block, size_of

PLAIN_PIECE = 128 << 20  # bytes
BZ2_PIECE = 32 << 20  # about as much text as PLAIN_PIECE
_READ = 1 << 16  # packed bytes at a time; bz2 copies what is left of them at every end of a stream
_UNPACK = 1 << 20  # unpacked bytes at a time, whatever the ratio
_MAGIC_BYTES = 10  # of BZ2_STREAM, which do not occur by chance


class Chunk(NamedTuple):
    """Consecutive bytes, or None where bytes are missing; ``own`` is False beyond the end of the piece."""

    data: bytes | None
    own: bool


def pieces(path: Path, piece_bytes: int | None = None) -> list[Piece]:
    """Pieces of about ``piece_bytes`` on disk; what is not bzip2 of many streams or plain XML is one piece."""
    size = size_of(path)
    cuts = [0]
    with open_file(path) as file:
        packed = packing(file)
        if packed == "bz2":
            while (cut := _next_bz2_stream(file, cuts[-1] + (piece_bytes or BZ2_PIECE))) is not None:
                cuts.append(cut)
        elif not packed:
            step = piece_bytes or PLAIN_PIECE
            cuts += range(step, size, step)
    return [Piece(path, end - start, start, end) for start, end in pairwise([*cuts, size])]


def chunks(piece: Piece, problems: ReadErrors) -> Iterator[Chunk]:
    """The unpacked bytes of a piece and of what follows it; only damage within the piece is reported."""
    end = size_of(piece.path) if piece.end is None else piece.end
    with open_file(piece.path) as file:
        packed = packing(file)
        if packed == "bz2":
            yield from _bz2_chunks(file, piece, end, problems)
            return
    position = piece.start  # of .gz, .xz and .zst, in the unpacked file, which is all one piece
    try:
        with opened(piece.path) as unpacked:
            if not packed:
                unpacked.seek(position)
            while data := read_block(unpacked, min(_UNPACK, max(0, end - position)) or _UNPACK):
                position += len(data)
                yield Chunk(data, bool(packed) or position <= end)
    except READ_ERRORS as error:
        problems.report(f"{piece.path}, after unpacked byte {position}", f"cut off or damaged ({fault(error)})")
        yield Chunk(None, True)


def _bz2_chunks(file: BinaryIO, piece: Piece, end: int, problems: ReadErrors) -> Iterator[Chunk]:
    start: int | None = piece.start
    while start is not None:
        own = start < end
        file.seek(start)
        unpacker = bz2.BZ2Decompressor()
        try:
            while not unpacker.eof:
                packed = file.read(_READ) if unpacker.needs_input else b""
                if unpacker.needs_input and not packed:
                    raise EOFError("it ends within a stream")
                if data := unpacker.decompress(packed, _UNPACK):
                    yield Chunk(data, own)
        except (OSError, EOFError) as error:  # bz2 reports damage as a plain OSError
            after, damage = start + 1, f"the .bz2 is cut off or damaged ({error})"
        else:
            after = file.tell() - len(unpacker.unused_data)
            file.seek(after)
            following = file.read(_MAGIC_BYTES)
            if not following:
                return
            damage = "" if BZ2_STREAM.match(following) else "what follows is not a bzip2 stream"
        if damage:
            if own:
                problems.report(f"{piece.path}, bzip2 stream at byte {start}", damage)
            yield Chunk(None, own)
        start = _next_bz2_stream(file, after)


def _next_bz2_stream(file: BinaryIO, position: int) -> int | None:
    """The first start of a bzip2 stream at or after ``position``."""
    file.seek(position)
    kept = b""
    while data := file.read(_UNPACK):
        data = kept + data
        if found := BZ2_STREAM.search(data):
            return file.tell() - len(data) + found.start()
        kept = data[1 - _MAGIC_BYTES :]
    return None
