"""When a training has diverged: what is not a number, and a perplexity that has risen and does not come back.

The rule for the perplexity: of the losses of the last 40 log intervals, the median is compared with the lowest such
median since this start. A training stops if that means a perplexity more than 3 times as high, which takes 20 such log
intervals: a spike that is shorter stops nothing, nor do the scattered losses of small batches. At first, while there
are 10 to 40 intervals, it is compared with a uniform guess over the vocabulary: what is 3 times worse than that after
10 intervals will not learn.

The environment variable LINFORMER_MAX_PERPLEXITY_RATIO replaces the 3; with 0 no perplexity stops a training.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping

from linformer_fairseq.errors import UsageError

VARIABLE = "LINFORMER_MAX_PERPLEXITY_RATIO"
WINDOW = 40
FEWEST = 10


def ratio_setting(environ: Mapping[str, str]) -> float | None:
    """The highest ratio of perplexities that a training may reach; None if it may reach any.

    Raises:
        UsageError: the variable is not a number above 1, nor 0.
    """
    text = environ.get(VARIABLE, "3")
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if ratio == 0:
        return None
    if not ratio > 1:
        raise UsageError(
            f"{VARIABLE} is {text!r}: give how many times the lowest perplexity of a training may be exceeded before "
            "it stops, a number above 1, or 0 to let it go on whatever its perplexity is"
        )
    return ratio


class PerplexityRule:
    """The rule above.

    Args:
        ratio: how many times as high as the lowest perplexity a perplexity may be.
        vocab_size: number of symbols that are predicted, None if not known.
    """

    def __init__(self, ratio: float, vocab_size: int | None) -> None:
        self.ratio = ratio
        self._lowest = math.inf if vocab_size is None else math.log2(vocab_size)
        self._at: int | None = None
        self._last: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def broken_by(self, update: int, loss: float) -> str | None:
        """Add the mean loss of a log interval.

        Args:
            update: the last one of the interval.
            loss: in bits.

        Returns:
            Why the training should stop, or None.
        """
        self._last.append((update, loss))
        if len(self._last) < FEWEST:
            return None
        median = statistics.median(loss for _, loss in self._last)
        if median > self._lowest + math.log2(self.ratio):
            lowest = "a uniform guess" if self._at is None else f"the lowest so far, at update {self._at}"
            return (
                f"its perplexity over the last {len(self._last)} log intervals is {_perplexity(median)}, more than "
                f"{self.ratio:g} times the {_perplexity(self._lowest)} of {lowest}"
            )
        if median < self._lowest and len(self._last) == WINDOW:
            self._lowest, self._at = median, update
        return None

    def last_good_update(self) -> int:
        """The last update of the last log interval that was below the limit; 0 if there is none among those kept."""
        limit = self._lowest + math.log2(self.ratio)
        return max((update for update, loss in self._last if loss <= limit), default=0)


def _perplexity(bits: float) -> str:
    return f"{2**bits:,.4g}" if bits < 60 else f"2^{bits:.0f}"
