"""Readers, one module per source; read ``text.py`` first. Each has

    SUFFIXES                     the kinds of files that it takes from a folder; None for any
    pieces(path)                 the parts of one input file that can be read independently
    documents(piece, problems)   the documents of one such part, in order

What a reader yields does not depend on how the pieces are spread over processes. Input that cannot be read goes to
``problems.report``, with the file and the position in it.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from linformer_fairseq.errors import UsageError


@dataclass(frozen=True)
class Piece:
    """A part of an input file: by default all of it."""

    path: Path
    size: int  # bytes on disk
    start: int = 0  # like `end`, in the reader's units: bytes, row groups, …
    end: int | None = None


@dataclass
class ReadErrors:
    """What was not read. Readers report unreadable input here; if `report` returns, they continue after it."""

    skip: bool = False  # unreadable input, as --on-error skip says, rather than stop
    skipped: list[str] = field(default_factory=list)  # a line for each piece of input that could not be read
    left_out: Counter[str] = field(default_factory=Counter)  # by reason, such as redirects: not meant to be read
    files: int = 0  # that were looked at, with those left out for their kind

    def report(self, where: str, what: str) -> None:
        """Note that the input at `where` (file and position) cannot be read; raises UsageError unless `skip`."""
        if not self.skip:
            raise UsageError(f"{where}: {what}; repair or remove it, or skip such input with --on-error skip")
        self.skipped.append(f"{where}: {what}")
