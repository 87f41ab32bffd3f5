"""Readers, one module per source; read ``text.py`` first. Each has

    SUFFIXES                     the kinds of files that it takes from a folder; None for any
    pieces(path)                 the parts of one input file that can be read independently
    documents(piece, problems)   the documents of one such part, in order

What a reader yields does not depend on how the pieces are spread over processes. Input that cannot be read goes to
``problems.report``, with the file and the position in it.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Piece:
    """A part of an input file: by default all of it."""

    path: Path
    size: int  # bytes on disk
    start: int = 0  # like `end`, in the reader's units: bytes, row groups, …
    end: int | None = None
