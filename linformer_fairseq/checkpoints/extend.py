"""Longer inputs and other projected lengths for a trained Linformer, to be pretrained a little more.

`keep` leaves the first n positions and the first n columns of E and F as they are, so that inputs of up to the old
length give what they gave. Positions are repeated behind them, and the new columns start at zero, for training to move.
`tile` repeats the columns, too: K then sums several inputs' worth of tokens, which a trained model has never seen.
`interpolate` stretches positions, E and F, as one resizes a picture, and changes short inputs as well.
docs/benchmarks/extend.md has figures.
"""

import re

import torch
import torch.nn.functional as functional
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import MAX_SPECIAL, Checkpoint, build, encoder_config
from linformer_fairseq.checkpoints.names import POSITIONS
from linformer_fairseq.errors import UsageError

METHODS = ("keep", "interpolate", "tile")


def extend(
    source: Checkpoint, max_positions: int | None = None, projected_length: str | None = None, method: str = "keep"
) -> Checkpoint:
    """The same model for inputs of `max_positions` tokens, or with another k; `method` is one of those above.

    Rows of E and F are averaged into fewer, or interpolated into more. A smaller n is a UsageError.
    """
    build(source)  # refuses what is not whole
    config = encoder_config(source)
    n = max_positions or config.max_positions
    if n < config.max_positions:
        raise UsageError(f"--max-positions {n}: the checkpoint reads {config.max_positions} already; give more")
    if method not in METHODS:
        raise UsageError(f"--method {method}: must be one of {', '.join(METHODS)}")
    model = source.model | {"max_positions": n}
    if projected_length is not None:
        model["projected_length"] = projected_length
    note = {"conversion": "extend", "max_positions": [config.max_positions, n], "method": method}
    note["projected_length"] = [list(config.lengths), projected_length]
    result = source.converted(note, model=model, task={**source.task, "tokens_per_sample": n})
    lengths = encoder_config(result).lengths  # refuses what does not fit, before anything is computed
    result.state |= longer_positions(source, n, method)
    for key, value in source.state.items():
        if key.endswith((".E.weight", ".F.weight")) and config.projection in ("linear", "conv"):
            layer = re.search(r"layers\.(\d+)\.", key)
            k = lengths[int(layer[1]) if layer else 0]
            linear = config.projection == "linear"
            result.state[key] = resize_matrix(value, k, n, method) if linear else resize_taps(value, n // k)
    build(result)
    return result


def longer_positions(source: Checkpoint, n: int, method: str) -> dict[str, Tensor]:
    """The positions of a checkpoint for inputs of n tokens, by name; UsageError for more than it has of an image's."""
    config = encoder_config(source)
    if not config.position_grid:
        return {POSITIONS: resize_positions(source.state[POSITIONS], n, method)}
    if n != config.max_positions:
        raise UsageError(f"--max-positions {n}: positions of images (--position-grid) stay as many as they are")
    return {}


def resize_positions(table: Tensor, n: int, method: str) -> Tensor:
    """(rows before the first position + old n, C) -> (the same rows + n, C)."""
    special, learned = table[:MAX_SPECIAL], table[MAX_SPECIAL:]
    return torch.cat([special, _columns(learned.t(), n, "tile" if method == "keep" else method).t()])


def resize_matrix(matrix: Tensor, k: int, n: int, method: str) -> Tensor:
    """E or F, (…, old k, old n) -> (…, k, n); rows become means of neighbours, or values in between."""
    columns = _columns(matrix, n, method)
    if method == "interpolate":  # the rows keep their sums: a constant input is projected to the same values
        columns = columns * (matrix.size(-1) / n)
    return columns if k == matrix.size(-2) else _stretch(columns.transpose(-1, -2), k).transpose(-1, -2)


def resize_taps(taps: Tensor, size: int) -> Tensor:
    """Taps of a convolution, (…, old S) -> (…, S), their sum kept."""
    return _stretch(taps, size) * (taps.size(-1) / size)


def _columns(matrix: Tensor, n: int, method: str) -> Tensor:
    """(…, old n) -> (…, n)"""
    old = matrix.size(-1)
    if method == "interpolate":
        return _stretch(matrix, n)
    if method == "keep":
        return functional.pad(matrix, (0, n - old))
    return matrix[..., torch.arange(n) % old]


def _stretch(x: Tensor, size: int) -> Tensor:
    """(…, old) -> (…, size): averages where it gets shorter, linear interpolation where it gets longer."""
    if size == x.size(-1):
        return x.clone()
    flat = x.reshape(1, -1, x.size(-1))
    shorter = size < x.size(-1)
    out = functional.adaptive_avg_pool1d(flat, size) if shorter else functional.interpolate(flat, size, mode="linear")
    return out.view(*x.shape[:-1], size)
