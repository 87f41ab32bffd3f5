"""Which tokens make up a block: a number is turned into a stretch of the stream of tokens, by arithmetic."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from linformer_fairseq.tasks.permutation import Ints
from linformer_fairseq.tasks.token_files import TokenFile


class Blocks(Protocol):
    """Stretches of a split, numbered from 0 to `count` - 1."""

    count: int

    def spans(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Where each of the blocks `numbers` starts in the stream, and how many tokens it has; (B,) each."""
        ...


class Windows:
    """`none`: block b holds the tokens b·room to (b + 1)·room; only the last one may be shorter. As fairseq's."""

    def __init__(self, file: TokenFile, room: int) -> None:
        self._tokens, self._room = file.tokens, room
        self.count = -(-file.tokens // room)

    def spans(self, numbers: Ints) -> tuple[Ints, Ints]:
        """See `Blocks`."""
        starts = numbers * self._room
        return starts, np.minimum(self._tokens - starts, self._room)


class Sentences:
    """`eos`: block b is sentence b, of which the first `room` tokens are taken."""

    def __init__(self, file: TokenFile, room: int) -> None:
        self._file, self._room = file, room
        self.count = file.sentences

    def spans(self, numbers: Ints) -> tuple[Ints, Ints]:
        """See `Blocks`."""
        edges = np.array([self._file.starts(number, 2) for number in numbers.tolist()])
        return edges[:, 0], np.minimum(edges[:, 1] - edges[:, 0], self._room)
