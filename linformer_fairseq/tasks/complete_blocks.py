"""Blocks of whole sentences that can be found without having packed all that come before.

The stream is cut into chunks of `_CHUNK` blocks. Chunk c begins at the first sentence that starts at c·W or behind, W
being the tokens that a chunk has on average, and is divided into exactly `_CHUNK` blocks: each ends where the sentence
does that is nearest to an even share of what is left of the chunk. A sentence is cut only where none of them leaves all
blocks of the chunk between one and `room` tokens. How full blocks get, and with it W, is measured on a sample of the
sentences. Every token is in one block; the last chunk has up to twice as many blocks.

fairseq packs greedily from the first sentence on, so its blocks are others, and it needs a pass over all sentences.
"""

from __future__ import annotations

import numpy as np

from linformer_fairseq.tasks.permutation import Ints
from linformer_fairseq.tasks.token_files import TokenFile

_CHUNK = 16  # blocks
_SAMPLES = 16  # stretches of about as many blocks as a chunk, on which it is measured how full blocks are
_SLACK = 0.95  # of the tokens that greedy packing gets into a block; with less slack more sentences are cut


class CompleteBlocks:
    """`complete`: whole sentences, at most `room` tokens."""

    def __init__(self, file: TokenFile, room: int) -> None:
        self._file, self._room = file, room
        share = min(max(int(greedy_fill(file, room) * _SLACK), 2), room)
        self._width = share * _CHUNK
        self._chunks = max(file.tokens // self._width, 1)
        # How far a chunk's edge may move to a sentence's start and still leave its neighbours enough tokens, and room.
        self._reach = min(room, (_CHUNK - 1) * min(share - 1, room - share)) if self._chunks > 1 else 0
        self._last = -(-(file.tokens - (self._chunks - 1) * self._width) // share)
        self.count = (self._chunks - 1) * _CHUNK + self._last

    def spans(self, numbers: Ints) -> tuple[Ints, Ints]:
        """See `Blocks`."""
        chunks = np.minimum(numbers // _CHUNK, self._chunks - 1)
        within = numbers - chunks * _CHUNK
        chosen, inverse = np.unique(chunks, return_inverse=True)
        edges = self._edges(chosen, int(within.max()) + 1)
        starts = edges[within, inverse]
        return starts, edges[within + 1, inverse] - starts

    def _edges(self, chunks: Ints, steps: int) -> Ints:
        """Where the first `steps` blocks of C different chunks start and the last of them ends: (steps + 1, C)."""
        low = chunks * self._width
        high = np.where(chunks == self._chunks - 1, self._file.tokens, low + self._width)
        near = [
            self._file.starts_between(*stretch)
            for stretch in zip(low.tolist(), (high + self._reach).tolist(), strict=True)
        ]
        # With sentinels, so that there always is a sentence before and one behind.
        sentences = np.sort(np.concatenate([[-1], *near, [self._file.tokens + 1]]))

        def at_a_sentence(edges: Ints) -> Ints:
            starts = sentences[np.searchsorted(sentences, edges)]
            inner = (edges > 0) & (edges < self._file.tokens)
            return np.where(inner & (starts <= edges + self._reach), starts, edges)

        edge, end = at_a_sentence(low), at_a_sentence(high)
        blocks = np.where(chunks == self._chunks - 1, self._last, _CHUNK)
        edges = [edge]
        for step in range(1, steps + 1):
            left = np.maximum(blocks - step, 0)  # blocks behind this one
            even = edge + (end - edge + left) // (left + 1)
            least, most = np.maximum(edge + 1, end - left * self._room), np.minimum(edge + self._room, end - left)
            behind = np.searchsorted(sentences, even)
            after, before = sentences[behind], sentences[behind - 1]
            near_after, near_before = after <= most, before >= least
            take_after = near_after & (~near_before | (after - even <= even - before))
            edge = np.where(take_after, after, np.where(near_before, before, even))
            edge = np.where(left, edge, end)
            edges.append(edge)
        return np.stack(edges)


def greedy_fill(file: TokenFile, room: int) -> float:
    """Tokens in a block of at most `room` when sentences are packed one after the other, measured on a sample."""
    count = min(int(_CHUNK * room * file.sentences / file.tokens) + 1, file.sentences)
    tokens = blocks = 0
    for first in np.unique(np.linspace(0, file.sentences - count, _SAMPLES).astype(np.int64)).tolist():
        starts = file.starts(first, count + 1)
        place = int(starts[0])
        while True:
            end = int(starts[np.searchsorted(starts, place + room, "right") - 1])
            if end == starts[-1]:
                break
            end = end if end > place else place + room
            tokens, blocks, place = tokens + end - place, blocks + 1, end
    return tokens / blocks if blocks else float(room)
