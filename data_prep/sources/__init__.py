"""Readers, one module per kind of source, each with two functions:

    pieces(path)                 the parts of one input file that can be read on their own
    documents(piece, problems)   the documents of one such part, in order

What a reader yields does not depend on how the pieces are spread over processes. Bad input goes to
``problems.report``, with the file and the position in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Piece:
    """A part of an input file.

    Attributes:
        path: the file.
        start, end: of the part, in the units of its reader (bytes, row groups, …); the whole file by default.
        size: bytes that the part takes on disk, for progress and to form shards of like size.
    """

    path: Path
    size: int
    start: int = 0
    end: int | None = None
