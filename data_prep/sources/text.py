"""Text files in which every line is a paragraph; one document per file, or per 16 MB of a long one."""

from __future__ import annotations

import bz2
import gzip
import html
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, cast

from data_prep.corpus import Document, join_wrapped, tidy
from data_prep.problems import Problems
from data_prep.sources import Piece
from data_prep.sources.archives import files_in
from data_prep.sources.files import STDIN, TARS, is_plain, size_of, stem, whole
from data_prep.sources.lines import Lines, line_pieces
from data_prep.stage import DataPrepError

SUFFIXES = frozenset({".txt", ".md"}) | TARS

# A dump of many texts in one file must not become one document that no worker can hold.
PART = 16 << 20  # bytes


def pieces(path: Path) -> list[Piece]:
    """The parts of a plain file; one piece for standard input, a compressed file or an archive."""
    return line_pieces(path, size_of(path), PART) if is_plain(path) else whole(path)


def documents(piece: Piece, problems: Problems) -> Iterator[Document]:
    """One document per part of 16 MB: ``name``, ``name#2``, … however the file is compressed."""
    for where, name, file in files_in(piece, SUFFIXES, problems):
        name = "stdin" if piece.path == STDIN else stem(name)
        if piece.start:
            file.seek(piece.start)
        lines = Lines(file, where, problems, piece.start, None if piece.end is None else piece.end - piece.start)
        paragraphs: list[str] = []
        part = piece.start // PART
        for line in lines:
            if lines.offset // PART > part:
                yield _document(name, part, paragraphs)
                paragraphs, part = [], lines.offset // PART
            # Other line ends than \n, such as those of old Macintosh files, end a paragraph, too.
            paragraphs += line.splitlines()
        if lines.next_offset > piece.start:
            yield _document(name, part, paragraphs)


def _document(name: str, part: int, paragraphs: list[str]) -> Document:
    return Document(f"{name}#{part + 1}" if part else name, "text", name.replace("_", " "), tidy(paragraphs))


# The readers that extract.py uses until it reads by pieces.

TEXT_SUFFIXES = {".txt", ".md"}
_TAR_NAME = re.compile(r"\.(tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$")
_DOC_START = re.compile(r'<doc id="([^"]*)" url="[^"]*" title="(.*)">$')

Progress = Callable[[int], object]


def input_files(inputs: Iterable[Path]) -> list[Path]:
    """The files behind a list of files and folders (there, all but the hidden ones, sorted)."""
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
            if not below:
                raise DataPrepError(f"{path}: the folder holds no files")
            files += below
        elif path.is_file():
            files.append(path)
        else:
            raise DataPrepError(f"{path}: no such file or folder")
    return files


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def text_files(files: Iterable[Path], progress: Progress) -> Iterator[tuple[str, list[str]]]:
    """Yields (name, lines) of every file, and of every regular file in every tar archive."""
    for path in files:
        if _TAR_NAME.search(path.name):
            yield from _tar_members(path, progress)
        else:
            yield path.name, _lines(path.read_bytes(), str(path))
            progress(path.stat().st_size)


def _tar_members(path: Path, progress: Progress) -> Iterator[tuple[str, list[str]]]:
    # As a stream ("r|"), in the archive's own order: sorting would decompress it once per member.
    try:
        with path.open("rb") as packed, tarfile.open(fileobj=_unpacked(packed), mode="r|") as archive:
            done = 0
            for member in archive:
                name = PurePosixPath(member.name)
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and not _hidden(name):
                    yield name.name, _lines(file.read(), f"{path}:{name}")
                progress(packed.tell() - done)
                done = packed.tell()
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise DataPrepError(f"{path}: not a complete tar archive ({error}); download or pack it again") from error


def _unpacked(packed: BinaryIO) -> BinaryIO:
    """The tar inside; unlike tarfile's own unpacking of streams, this notices a file that was cut off."""
    start = packed.read(6)
    packed.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(packed))
    if start.startswith(b"BZh"):
        return cast(BinaryIO, bz2.open(packed))
    if start == b"\xfd7zXZ\0":
        return cast(BinaryIO, lzma.open(packed))
    return packed


def _lines(content: bytes, name: str) -> list[str]:
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataPrepError(
            f"{name}: not UTF-8 at byte {error.start}; convert it first, for example with iconv"
        ) from error


def doc_files(files: Iterable[Path], progress: Progress) -> Iterator[Document]:
    """Articles in wikiextractor's format: ``<doc id="…" url="…" title="…">``, text, ``</doc>``."""
    for name, lines in text_files(files, progress):
        header: re.Match[str] | None = None
        body: list[str] = []
        for line in lines:
            if header is None:
                header = _DOC_START.match(line)
                if header is None and line.strip():
                    raise DataPrepError(f"{name}: expected a <doc …> line, found {line[:60]!r}; see --source text")
                body = []
            elif line == "</doc>":
                yield Document(header[1], "doc", html.unescape(header[2]), tidy(body))
                header = None
            else:
                body.append(line)
        if header is not None:
            raise DataPrepError(f"{name}: article {header[1]} has no </doc> line; is the file cut off?")


def books(files: Iterable[Path], progress: Progress) -> Iterator[Document]:
    """One document per .txt or .md file; an empty line ends a paragraph, other line ends only wrap it."""
    for name, lines in _only_text(text_files(files, progress)):
        yield Document(name, "books", name.replace("_", " "), tidy(join_wrapped(lines)))


def texts(files: Iterable[Path], progress: Progress) -> Iterator[Document]:
    """One document per .txt or .md file; every line is a paragraph."""
    for name, lines in _only_text(text_files(files, progress)):
        yield Document(name, "text", name.replace("_", " "), tidy(lines))


def _only_text(files: Iterable[tuple[str, list[str]]]) -> Iterator[tuple[str, list[str]]]:
    for name, lines in files:
        path = PurePosixPath(name)
        if path.suffix.lower() in TEXT_SUFFIXES:
            yield path.stem, lines
