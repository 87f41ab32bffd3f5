"""Input files: which there are, and how they are opened and unpacked, alone or in tar archives."""

import bz2
import gzip
import lzma
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager, nullcontext
from io import BufferedReader
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Self, cast

import pyarrow as pa

from data_prep.sources import Piece, ReadErrors
from linformer_fairseq.errors import UsageError

STDIN = Path("-")
TARS = frozenset({".tar", ".tgz", ".tbz2", ".txz"})  # .tar.gz and the like are .tar to kind()

# A worker holds one document at a time, so its memory is bounded whatever the input.
LARGEST_DOCUMENT = 32 << 20

# Raised by a file that cannot be opened, ends too early or cannot be unpacked.
READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)

# A stream starts with a block or, if it is empty, with the end mark. "BZh" alone may begin a text.
BZ2_STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
_HIDDEN = re.compile(r"(^|/)\.")  # a part of a path that begins with a dot
_PACKED: dict[str, tuple[re.Pattern[bytes], Callable[[BufferedReader], Any]]] = {
    "gz": (re.compile(rb"\x1f\x8b"), gzip.open),
    "bz2": (BZ2_STREAM, bz2.open),
    "xz": (re.compile(rb"\xfd7zXZ\0"), lzma.open),
    # Unlike the stream reader of the package zstandard, Arrow's notices a truncated file.
    "zst": (re.compile(rb"\x28\xb5\x2f\xfd"), lambda file: pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")),
}


def input_files(inputs: Iterable[Path], suffixes: Set[str] | None, problems: ReadErrors) -> list[Path]:
    """The files behind a list of files, folders and ``-`` (standard input).

    A folder gives the files below it that are not hidden and of a kind in ``suffixes`` (None for any), sorted. A file
    that is named itself is taken whatever its kind. Raises UsageError if a path does not exist.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and not _HIDDEN.search(str(p.relative_to(path))))
            known = [file for file in found if _is_of_kind(file, suffixes, problems)]
            if not known:
                kinds = f" of its kinds ({' '.join(sorted(suffixes))})" if suffixes else ""
                problems.report(str(path), f"the folder holds no files{kinds}")
            files += known
        elif path == STDIN or path.exists():
            files.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder; check the path")
    return files


def _is_of_kind(path: PurePath, suffixes: Set[str] | None, problems: ReadErrors) -> bool:
    """Count a file of another kind, which is no error: a folder of books may hold their covers."""
    known = suffixes is None or kind(path.name) in suffixes
    if not known:
        problems.left_out[f"{kind(path.name) or 'other'} files"] += 1
    return known


def kind(name: str) -> str:
    """The suffix of a file name in lower case, without that of a compression: ``.txt`` for ``A.TXT.gz``."""
    return _without_compression(name).suffix.lower()


def stem(name: str) -> str:
    """The file name without suffixes: ``A`` for ``A.txt.gz``."""
    return printable(_without_compression(name).stem)


def _without_compression(name: str) -> PurePath:
    path = PurePath(name)
    return path.with_suffix("") if path.suffix.lower().removeprefix(".") in _PACKED else path


def printable(name: str) -> str:
    """A file name as text; bytes in it that are not UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()


def whole(path: Path) -> list[Piece]:
    """The one piece of a file that cannot be read in parts."""
    return [Piece(path, 0 if path == STDIN else path.stat().st_size)]


def size_of(path: Path) -> int:
    """Bytes of a file that is read at several positions; raises UsageError for standard input."""
    if path == STDIN:
        raise UsageError("-: this source cannot be read from standard input; name a file")
    return path.stat().st_size


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, or standard input for ``-``, and unpack it if it is compressed."""
    with nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as file:
        yield _unpacked(cast(BufferedReader, file))


def _unpacked(file: BufferedReader) -> BinaryIO:
    """The content; a truncated file raises one of :data:`READ_ERRORS` after the last part that can be unpacked."""
    name = packing(file)
    return cast(BinaryIO, _PACKED[name][1](file)) if name else file


def packing(file: BufferedReader) -> str:
    """``gz``, ``bz2``, ``xz`` or ``zst`` by the first bytes of a file that has not been read yet, else empty."""
    start = file.peek(10)
    return next((name for name, (pattern, _) in _PACKED.items() if pattern.match(start)), "")


def read_block(file: BinaryIO, size: int) -> bytes:
    """Up to ``size`` bytes, empty at the end."""
    # When read() of a buffered reader raises, it drops what it has read before; read1() does not.
    block: bytes = getattr(file, "read1", file.read)(size)
    return block


class _Member(tarfile.TarInfo):
    """A member whose header must be complete: tarfile takes an archive that ends inside one for finished."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if len(buf) < tarfile.BLOCKSIZE:
            raise EOFError("the archive has no end")
        return super().frombuf(buf, encoding, errors)


def files_in(piece: Piece, suffixes: Set[str] | None, problems: ReadErrors) -> Iterator[tuple[str, str, BinaryIO]]:
    """Yield (what messages call it, name, unpacked content) of a file, or of the files in a tar archive.

    An archive is read in its own order and never unpacked to disk. Hidden members, links and devices are passed
    over; those of other kinds than ``suffixes`` are counted. The content must be read before the next file.
    """
    where = printable(str(piece.path))
    try:
        with opened(piece.path) as file:
            if kind(piece.path.name) not in TARS:
                yield where, piece.path.name, file
                return
            # As a stream ("r|"): sorting the members would unpack everything once per member.
            with tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as archive:
                for member in archive:
                    path = PurePath(member.name)
                    content = archive.extractfile(member) if member.isfile() else None
                    if content is not None and not _HIDDEN.search(str(path)) and _is_of_kind(path, suffixes, problems):
                        yield printable(f"{where}:{path}"), path.name, _unpacked(cast(BufferedReader, content))
    except READ_ERRORS as error:
        problems.report(where, f"cannot be read to its end ({error})")
