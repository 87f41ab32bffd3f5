"""What all readers of files share: which files there are, and how they are opened and unpacked."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

import pyarrow as pa

from data_prep.problems import Problems
from data_prep.sources import Piece
from linformer_fairseq.errors import UsageError

STDIN = Path("-")
COMPRESSIONS = frozenset({".gz", ".bz2", ".xz", ".zst"})
TARS = frozenset({".tar", ".tgz", ".tbz2", ".txz"})  # .tar.gz and the like are .tar to kind()

# A worker holds one document at a time, so that its memory is flat whatever the input.
LARGEST_DOCUMENT = 32 << 20

# What a file raises that cannot be opened, ends too early or does not unpack.
READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)

_PACKED: tuple[tuple[re.Pattern[bytes], Callable[[BufferedReader], Any]], ...] = (
    (re.compile(rb"\x1f\x8b"), gzip.open),
    # More than "BZh", which a text may begin with.
    (re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), lzma.open),
    # Unlike the stream reader of the package zstandard, this one notices a file that was cut off.
    (re.compile(rb"\x28\xb5\x2f\xfd"), lambda file: pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")),
)


def input_files(inputs: Iterable[Path], suffixes: Set[str] | None, problems: Problems) -> list[Path]:
    """The files behind a list of files and folders.

    A folder gives the files below it that are not hidden and of a known kind, sorted; the others are listed in
    ``problems.skipped``. A file that is named itself is taken whatever its kind.

    Args:
        inputs: files, folders, or ``-`` for standard input.
        suffixes: the kinds that the reader knows (see :func:`kind`); None for any.
        problems: gets the folders without such files, too.

    Raises:
        UsageError: a path does not exist.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and not hidden(p.relative_to(path)))
            known = [p for p in found if suffixes is None or kind(p.name) in suffixes]
            for other in sorted(set(found) - set(known)):
                leave_out(str(other), problems)
            if not known:
                kinds = f" of its kinds ({' '.join(sorted(suffixes))})" if suffixes else ""
                problems.report(str(path), f"the folder holds no files{kinds}")
            files += known
        elif path == STDIN or path.exists():
            files.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder; check the path")
    return files


def leave_out(where: str, problems: Problems) -> None:
    """Lists a file of another kind, which is no reason to stop: folders of books hold their covers, too."""
    problems.left_out[f"{kind(where) or 'other'} files"] += 1


def hidden(path: PurePath) -> bool:
    """Whether the path has a part that begins with a dot, as system files and notes of archivers have."""
    return any(part.startswith(".") for part in path.parts)


def kind(name: str) -> str:
    """The suffix of a file name in lower case, without that of a compression: ``.txt`` for ``A.TXT.gz``."""
    return _plain(name).suffix.lower()


def stem(name: str) -> str:
    """The file name without suffixes: ``A`` for ``A.txt.gz``."""
    return printable(_plain(name).stem)


def _plain(name: str) -> PurePath:
    path = PurePath(name)
    return PurePath(path.stem) if path.suffix.lower() in COMPRESSIONS else path


def printable(name: str) -> str:
    """A file name as text; bytes in it that are not UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()


def size_of(path: Path) -> int:
    """Bytes on disk; 0 for standard input."""
    return 0 if path == STDIN else path.stat().st_size


def whole(path: Path) -> list[Piece]:
    """The one piece of a file that cannot be read in parts."""
    return [Piece(path, size_of(path))]


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a file, or standard input for ``-``, and unpacks it if it is compressed."""
    if path == STDIN:
        yield unpacked(cast(BufferedReader, sys.stdin.buffer))
        return
    with path.open("rb") as file:
        yield unpacked(file)


def unpacked(file: BufferedReader) -> BinaryIO:
    """The content of a file that may be compressed by gzip, bzip2, xz or Zstandard, told by its first bytes.

    All members of a compressed file are read. One that is cut off raises one of :data:`READ_ERRORS` behind the
    last part that could be unpacked.
    """
    opener = _opener(file)
    return file if opener is None else cast(BinaryIO, opener(file))


def _opener(file: BufferedReader) -> Callable[[BufferedReader], Any] | None:
    start = file.peek(10)
    return next((opener for pattern, opener in _PACKED if pattern.match(start)), None)


def is_plain(path: Path) -> bool:
    """Whether a file can be read from anywhere: neither compressed nor an archive nor a pipe."""
    if path == STDIN or not path.is_file() or kind(path.name) in TARS:
        return False
    with path.open("rb") as file:
        return _opener(file) is None


def read_block(file: BinaryIO, size: int) -> bytes:
    """Up to ``size`` bytes, empty at the end; loses nothing that comes before an error."""
    # read() of a buffered reader throws away what it has already when the rest raises; read1() does not.
    read: bytes = getattr(file, "read1", file.read)(size)
    return read
