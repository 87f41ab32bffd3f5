"""Which tokens of a batch are to be predicted and what the model sees in their place, for all of its rows at once.

As fairseq's MaskTokensDataset: a share of each row's tokens, rounded up or down at random, without replacement; most of
them become <mask>, some a random token, some stay. Unlike there, special symbols are neither predicted nor drawn. The
masks of a row depend on seed, epoch and block alone, not on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linformer_fairseq.tasks.permutation import Ints, hashed, mix

_BITS = 53  # of a hash that make a fraction


@dataclass(frozen=True)
class Masking:
    """What is to be masked.

    Attributes:
        probability: of a token to be predicted.
        leave: of a token to be predicted, to stay as it is.
        random: of a token to be predicted, to become another one.
        special: ids below this one are special symbols.
        mask: id of <mask>.
        pad: id of <pad>, the target where nothing is to be predicted.
        symbols: of the vocabulary.
        seed: of all draws.
    """

    probability: float
    leave: float
    random: float
    special: int
    mask: int
    pad: int
    symbols: int
    seed: int

    def __call__(self, tokens: Ints, numbers: Ints, epoch: int) -> tuple[Ints, Ints]:
        """The model's input and its targets, (B, N) each.

        Args:
            tokens: (B, N), padded at will.
            numbers: of the blocks, (B,).
            epoch: another one has other masks.
        """
        ordinary = (tokens >= self.special) & (tokens != self.mask)
        rows = hashed(self.seed, epoch, numbers)
        draws = mix(rows[:, None] + hashed(np.arange(tokens.shape[1])))
        chosen = self._choose(ordinary, draws >> np.uint64(32), _fractions(mix(rows)))
        target = np.where(chosen, tokens, self.pad)

        more = mix(draws[chosen])
        fraction = _fractions(more)
        seen = np.where(fraction < self.leave, tokens[chosen], self.mask)
        drawn = self.special + (mix(more) % np.uint64(self.symbols - self.special - 1)).astype(np.int64)
        drawn += drawn >= self.mask
        source = tokens.copy()
        source[chosen] = np.where(fraction >= 1 - self.random, drawn, seen)
        return source, target

    def _choose(
        self, ordinary: npt.NDArray[np.bool_], draws: npt.NDArray[np.uint64], rounding: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.bool_]:
        """Those with the lowest draws of each row."""
        count = (self.probability * ordinary.sum(1) + rounding).astype(np.int64)
        draws32 = np.where(ordinary, draws.astype(np.uint32), np.uint32(0xFFFFFFFF))
        highest = np.take_along_axis(np.sort(draws32, 1), np.maximum(count - 1, 0)[:, None], 1)
        chosen: npt.NDArray[np.bool_] = ordinary & (draws32 <= highest) & (count > 0)[:, None]
        return chosen


def _fractions(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1)."""
    return (hashes >> np.uint64(64 - _BITS)).astype(np.float64) * 2.0**-_BITS
