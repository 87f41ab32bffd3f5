"""What is computed, as columns of the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import softmax

from linformer_fairseq.inference.engine import Values

Present = npt.NDArray[np.bool_]
FLOATS = ("float32", "float16")


def vectors(values: Values, present: Present, dtype: str) -> dict[str, pa.Array]:
    """`vector`: lists of one size; null for a row without text.

    Args:
        values: (rows with text, C).
        present: (rows,), whether a row has text.
        dtype: one of `FLOATS`.
    """
    return {"vector": _lists(values.astype(dtype), present)}


def predictions(values: Values, present: Present, classes: Sequence[str]) -> dict[str, pa.Array]:
    """`label` and `scores`, the probability of each class; or `score` where there are no classes.

    Args:
        values: (rows with text, classes) scores before the softmax, or (rows with text, 1).
        present: (rows,), whether a row has text.
        classes: their names.
    """
    if not classes:
        return {"score": _spread(pa.array(values[:, 0], pa.float32()), present)}
    names = pa.array(classes, pa.string()).take(pa.array(values.argmax(1)))
    return {"label": _spread(names, present), "scores": _lists(softmax(values, axis=1), present)}


def _lists(values: npt.NDArray[Any], present: Present) -> pa.Array:
    whole = np.zeros((len(present), values.shape[1]), values.dtype)
    whole[present] = values
    return pa.FixedSizeListArray.from_arrays(pa.array(whole.ravel()), values.shape[1], mask=pa.array(~present))


def _spread(values: pa.Array, present: Present) -> pa.Array:
    return values.take(pa.array(np.cumsum(present) - 1, mask=~present))
