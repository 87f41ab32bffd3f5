"""Readers, one module per source, each with

    SUFFIXES                     the kinds of files that it takes from a folder; None for any
    pieces(path)                 the parts of one input file that can be read independently
    documents(piece, problems)   the documents of one such part, in order

What a reader yields does not depend on how the pieces are spread over processes. Input that cannot be read goes to
``problems.report``, with the file and the position in it. Read ``files.py`` and ``text.py`` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Piece:
    """A part of an input file.

    Attributes:
        path: the file.
        size: bytes that the part takes on disk, for progress and to form shards of similar size.
        start, end: of the part, in the units of its reader (bytes, row groups, …); the whole file by default.
    """

    path: Path
    size: int
    start: int = 0
    end: int | None = None
