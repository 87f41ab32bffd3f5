"""Random numbers and random orders that are computed from a key, so that nothing has to be stored or drawn in turn."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 8


def mix(values: Hashes) -> Hashes:
    """Each value's 64 bits spread over all 64 (the output function of SplitMix64); any shape but ()."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hashed(*parts: int | Ints) -> Hashes:
    """A random number for each combination of `parts`, whole numbers or arrays of them, which are broadcast."""
    state: Hashes = np.zeros(1, np.uint64)
    for part in parts:
        bits = np.atleast_1d(np.asarray(part)).astype(np.uint64) + _GOLDEN
        state = mix(state ^ mix(bits))
    return state


class Permutation:
    """A random order of 0 … size - 1 of which single places can be asked.

    A Feistel network over pairs (a, b) with a·b just above `size`; what falls outside is sent through again until it
    is inside, which leaves a permutation. Memory is constant, and so is the time for a place.
    """

    def __init__(self, size: int, *key: int) -> None:
        """`size` is at least 1; each `key` gives an order of its own."""
        self.size = size
        self._rows = math.isqrt(size - 1) + 1
        self._columns = -(-size // self._rows)
        self._keys = [hashed(*key, number) for number in range(_ROUNDS)]

    def __call__(self, places: Ints) -> Ints:
        """What is at each of `places`; both of shape (P,)."""
        found = self._once(places)
        while len(outside := np.flatnonzero(found >= self.size)):
            found[outside] = self._once(found[outside])
        return found

    def _once(self, values: Ints) -> Ints:
        row, column = np.divmod(values.astype(np.uint64), np.uint64(self._columns))
        for number, key in enumerate(self._keys):
            if number % 2:
                column = (column + mix(row ^ key) % np.uint64(self._columns)) % np.uint64(self._columns)
            else:
                row = (row + mix(column ^ key) % np.uint64(self._rows)) % np.uint64(self._rows)
        return (row * np.uint64(self._columns) + column).astype(np.int64)
