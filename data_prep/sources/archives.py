"""Files as a reader sees them: one by one, whether they lie in a folder or in a tar archive."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Set
from io import BufferedReader
from pathlib import PurePosixPath
from typing import BinaryIO, Self, cast

from data_prep.problems import Problems
from data_prep.sources import Piece
from data_prep.sources.files import READ_ERRORS, TARS, hidden, kind, leave_out, opened, printable, unpacked


class _Member(tarfile.TarInfo):
    """A member whose header must be complete: tarfile takes an archive that ends inside one for finished."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if len(buf) < tarfile.BLOCKSIZE:
            raise EOFError("the archive has no end")
        return super().frombuf(buf, encoding, errors)


def files_in(piece: Piece, suffixes: Set[str] | None, problems: Problems) -> Iterator[tuple[str, str, BinaryIO]]:
    """Yields (what messages call it, name, unpacked content) of a file, or of the files in a tar archive.

    An archive is read in its own order and never unpacked to disk. Hidden members, links and devices are passed
    over; those of another kind than ``suffixes`` are listed. The content must be read before the next file.
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
                    path = PurePosixPath(member.name)
                    content = archive.extractfile(member) if member.isfile() else None
                    if content is None or hidden(path):
                        continue
                    if suffixes is not None and kind(path.name) not in suffixes:
                        leave_out(f"{piece.path}:{path}", problems)
                    else:
                        yield printable(f"{where}:{path}"), path.name, unpacked(cast(BufferedReader, content))
    except READ_ERRORS as error:
        problems.report(where, f"cannot be read to its end ({error})")
