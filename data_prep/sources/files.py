"""Input files: which there are, and how they are opened and unpacked, alone or in tar archives.

An address such as ``s3://bucket/folder`` is a path of universal_pathlib, which reads it through fsspec.
"""

import bz2
import gzip
import lzma
import os
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from glob import has_magic
from io import DEFAULT_BUFFER_SIZE, BufferedReader, RawIOBase
from itertools import chain, islice
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
    "bz2": (BZ2_STREAM, lambda file: BufferedReader(_Streams(file, bz2.BZ2Decompressor))),
    "xz": (re.compile(rb"\xfd7zXZ\0"), lambda file: BufferedReader(_Streams(file, lzma.LZMADecompressor))),
    # Unlike the package zstandard, Arrow notices a truncated file. pzstd writes a frame without text first.
    "zst": (
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
        lambda file: pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"),
    ),
}


def expand(given: str, problems: ReadErrors) -> list[Path]:
    """The paths that an input names: itself if it exists, else what its wildcards (``* ? [] **``) match, sorted.

    Links to folders are followed, each folder once. Raises UsageError if nothing matches.
    """
    if given == str(STDIN):
        return [STDIN]
    if "://" in given:
        return _remote(given)
    path = Path(given) if Path(given) != STDIN else Path(given).absolute()
    if os.path.lexists(given) or not has_magic(given):
        return [path]
    found = dict.fromkeys(_matches(Path(path.anchor), path.parts[bool(path.anchor) :], problems))
    if not found:
        raise UsageError(f"{given}: no file matches")
    return sorted(found, key=str)


def is_remote(path: Path) -> bool:
    """Whether a path is an address."""
    return not isinstance(path, Path)


def open_file(path: Path) -> BufferedReader:
    """Open any input file."""
    file = path.open("rb")
    return BufferedReader(cast(RawIOBase, file), 1 << 20) if is_remote(path) else file


def _remote(given: str) -> list[Path]:
    """The files and folders that an address names or that its wildcards match."""
    from upath import UPath

    try:
        path = UPath(given)
        names = sorted(path.fs.glob(path.path)) if has_magic(given) else [path.path] * path.exists()
        found = [UPath(path.fs.unstrip_protocol(name)) for name in names]
    except Exception as error:  # those of any storage
        raise UsageError(
            f"{given}: cannot be reached ({' '.join(str(error).split())}); check address and access"
        ) from error
    if not found:
        raise UsageError(f"{given}: no file matches")
    return found


def _matches(folder: Path, parts: Sequence[str], problems: ReadErrors) -> Iterator[Path]:
    """The paths below a folder that match the parts of a pattern; a folder stands for all below it."""
    if not parts:
        yield folder
    elif parts[0] == "**":
        last = all(part == "**" for part in parts)
        for below in [folder] if last else (found for found, _, _ in _folders(folder, problems)):
            yield from _matches(below, parts[1:], problems)
    else:
        names = [parts[0]]
        if has_magic(parts[0]):
            listed = [name for _, *found in islice(_folders(folder, problems), 1) for name in chain(*found)]
            shown = [name for name in listed if parts[0].startswith(".") or not name.startswith(".")]
            names = [name for name in shown if name == parts[0] or fnmatchcase(name, parts[0])]
        for path in map(folder.joinpath, names):
            if path.is_dir() if parts[1:] else os.path.lexists(path):
                yield from _matches(path, parts[1:], problems)


def input_files(inputs: Iterable[Path], suffixes: Set[str] | None, problems: ReadErrors) -> list[Path]:
    """The files behind a list of files, folders and ``-`` (standard input).

    A folder gives the files below it that are not hidden and of a kind in ``suffixes`` (None for any), sorted. Links to
    folders are followed, and each folder is read once. A file that is named itself is taken whatever its kind. Raises
    UsageError if a path does not exist.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            known = [file for file in _files_below(path, problems) if _is_of_kind(file, suffixes, problems)]
            if not known:
                kinds = f" of its kinds ({' '.join(sorted(suffixes))})" if suffixes else ""
                problems.report(str(path), f"the folder holds no files{kinds}")
            files += known
        elif path == STDIN or path.exists():
            problems.files += 1
            files.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder; check the path")
    return files


def refuse_out_below(inputs: Iterable[str | Path], out: Path) -> None:
    """Raise UsageError if a folder of input holds an output folder, whose files the next start would read as input."""
    for given in map(Path, inputs):
        if given.is_dir() and given.resolve() in (out.resolve(), *out.resolve().parents):
            raise UsageError(
                f"--out {out}: lies in the input {given}, and would be read as input; choose another place"
            )


def _files_below(top: Path, problems: ReadErrors) -> list[Path]:
    """The files below a folder, sorted; hidden entries and what is no file are counted, broken links reported."""
    if is_remote(top):
        remote: Any = top
        names = sorted(remote.fs.find(remote.path))
        shown = [name for name in names if not _HIDDEN.search(name.removeprefix(remote.path))]
        problems.left_out["hidden"] += len(names) - len(shown)
        return [type(remote)(remote.fs.unstrip_protocol(name)) for name in shown]
    files: list[Path] = []
    for folder, inner, others in _folders(top, problems):
        problems.left_out["hidden"] += sum(name.startswith(".") for name in chain(inner, others))
        for path in (folder / name for name in others if not name.startswith(".")):
            if os.path.isfile(path) or not os.path.lexists(path):  # opening the latter will tell why
                files.append(path)
            elif path.exists():
                problems.left_out["other than files"] += 1
            else:
                problems.report(str(path), "a link to a file that does not exist")
    return sorted(files)


def _folders(top: Path, problems: ReadErrors) -> Iterator[tuple[Path, list[str], list[str]]]:
    """A folder and those below it that are not hidden, with the names of the folders and of the files in each.

    Linked folders come last, and each is read once. One that cannot be read is reported.
    """

    def report(error: OSError) -> None:
        problems.report(str(error.filename), f"the folder cannot be read ({error.strerror})")

    tops = [top]
    seen: set[tuple[int, int]] = set()  # device and number: a link may lead to a folder above it
    for start in tops:
        for folder, inner, others in os.walk(start, onerror=report):
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:
                inner.clear()
                continue
            seen.add((state.st_dev, state.st_ino))
            yield Path(folder), sorted(inner), sorted(others)
            inner[:] = sorted((name for name in inner if not name.startswith(".")), reverse=True)
            tops += [path for name in reversed(inner) if (path := Path(folder, name)).is_symlink()]


def _is_of_kind(path: PurePath, suffixes: Set[str] | None, problems: ReadErrors) -> bool:
    """Count a file of another kind, which is no error: a folder of books may hold their covers."""
    known = suffixes is None or kind(path.name) in suffixes
    problems.files += 1
    if not known:
        problems.left_out[f"{kind(path.name) or 'other'} files"] += 1
    return known


def is_stream(path: Path) -> bool:
    """Whether a path is standard input or a pipe, which can be read once, in the process that was given it."""
    return path == STDIN or path.is_fifo()


def kind(name: str) -> str:
    """The suffix of a file name in lower case, without that of a compression: ``.txt`` for ``A.TXT.gz``."""
    return _without_compression(name).suffix.lower()


def stem(name: str) -> str:
    """The file name without suffixes: ``A`` for ``A.txt.gz``."""
    return printable(_without_compression(name).stem)


def _without_compression(name: str) -> PurePath:
    path = PurePath(name)
    return path.with_suffix("") if path.suffix.lower().removeprefix(".") in _PACKED else path


def fault(error: Exception) -> str:
    """What one of ``READ_ERRORS`` says, with what can be done about it where that is not plain."""
    long = "requires too much memory" in str(error)
    return f"{error}{'; unpack it with zstd -d --long=31' if long else ''}"


def printable(name: str) -> str:
    """A file name as text; bytes in it that are not UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()


def whole(path: Path, **_: Any) -> list[Piece]:
    """The one piece of a file that is not read in parts, whatever the settings."""
    return [Piece(path, 0 if is_stream(path) else path.stat().st_size)]


def size_of(path: Path) -> int:
    """Bytes of a file that is read at several positions; raises UsageError for standard input and pipes."""
    if is_stream(path):
        what = "standard input" if path == STDIN else "a pipe"
        raise UsageError(f"{path}: this source cannot be read from {what}; name a file")
    return path.stat().st_size


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, or standard input for ``-``, and unpack it if it is compressed."""
    with nullcontext(sys.stdin.buffer) if path == STDIN else open_file(path) as file:
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


class _Streams(RawIOBase):
    """The content of compressed streams that follow one another, padded with zero bytes or not, as xz allows.

    lzma.open takes such padding for a stream that is cut off, or for the end; bz2.open drops what is no stream, too.
    """

    def __init__(self, file: BinaryIO, new: Callable[[], Any]) -> None:
        self._file, self._new, self._unpacker = file, new, new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = packed = b""
        while not data:
            if self._unpacker.eof:
                packed = self._unpacker.unused_data.lstrip(b"\0")
                while not packed and (block := self._file.read(DEFAULT_BUFFER_SIZE)):
                    packed = block.lstrip(b"\0")
                if not packed:
                    return 0
                self._unpacker = self._new()
            else:
                packed = self._file.read(DEFAULT_BUFFER_SIZE) if self._unpacker.needs_input else b""
                if self._unpacker.needs_input and not packed:
                    raise EOFError("it ends within a stream")
            data = self._unpacker.decompress(packed, len(buffer))
        buffer[: len(data)] = data
        return len(data)


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
        problems.report(where, f"cannot be read to its end ({fault(error)})")
