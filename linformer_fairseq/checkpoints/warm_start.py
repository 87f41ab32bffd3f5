"""A Linformer from a trained model with exact attention: all parameters are kept, and E and F are added.

Initial E and F:
    block-mean  averages of n/k neighbours
    svd         averages over the groups of positions that the model attends to alike, see spectral.py
    random      the paper's N(0, 1/k), for comparison
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, completed, encoder_config, untrained
from linformer_fairseq.checkpoints.extend import longer_positions, resize_matrix
from linformer_fairseq.checkpoints.spectral import attention_grams, spectral_matrix
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers.projection import block_mean_matrix

INITS = ("block-mean", "svd", "random")
INITIALISED = ("linear", "conv")  # kinds whose E and F depend on n and k; the others start as their layers make them


def to_linformer(
    exact: Checkpoint,
    projected_length: str = "256",
    max_positions: int | None = None,
    sharing: str = "layerwise",
    kind: str = "linear",
    init: str = "block-mean",
    sample: Iterable[Tensor] | None = None,
    window: int = 0,
) -> Checkpoint:
    """The Linformer with all parameters of a model with exact attention.

    The arguments are the flags of `linformer convert from-roberta`. With `random`, every call gives the same; `sample`
    are batches of ids (B, N) for `svd`, best of the model's whole length (`sample.sample_batches`).
    """
    if init not in INITS:
        raise UsageError(f"--init {init}: must be one of {', '.join(INITS)}")
    if init == "svd" and sample is None:
        raise UsageError("--init svd looks at the model's attention on text: give binarised data with --sample")
    if init != "block-mean" and kind not in INITIALISED or init == "svd" and kind != "linear":
        raise UsageError(f"--init {init} is not for --projection {kind}; leave it out")
    source = longer(exact, max_positions)
    model: dict[str, Any] = {"projected_length": projected_length, "projection": kind, "projection_sharing": sharing}
    model |= {"local_window": window} if window else {}
    note = {"conversion": "to-linformer", "init": init, **model, "max_positions": source.model["max_positions"]}
    model |= {"attention": "linformer", "projection_init": "normal" if init == "random" else "block-mean"}
    result = source.converted(note, model=source.model | model)
    config = encoder_config(result)  # refuses what does not fit, before anything is computed
    grams = iter(attention_grams(exact, sample, config).unbind() if init == "svd" and sample is not None else ())
    new = untrained(result.model, config.vocab_size).state_dict()
    projections = {name: value for name, value in new.items() if ".E." in name or ".F." in name}
    if kind not in INITIALISED:
        result.state |= projections
        return completed(result)
    generator = torch.Generator().manual_seed(1)
    for name in filter(lambda name: name.endswith(".weight"), projections):
        shape = projections[name].shape
        if init != "svd":
            result.state[name] = _initial(kind, shape, init, generator)
        elif ".E." in name:
            gram, (k, n) = next(grams), shape[-2:]
            method = "interpolate" if n > gram.size(-1) else "keep"  # inputs longer than it stretch it
            result.state[name] = resize_matrix(spectral_matrix(gram, min(k, gram.size(-1))), k, n, method)
        else:
            result.state[name] = result.state[name.replace(".F.", ".E.")]
    return completed(result)


def longer(exact: Checkpoint, max_positions: int | None = None) -> Checkpoint:
    """The same model with exact attention for inputs of another length; positions beyond its own repeat them."""
    config = encoder_config(exact)
    if config.attention != "exact":
        raise UsageError(f"a model with --attention {config.attention} is not a RoBERTa; use extend for a Linformer")
    n = max_positions or config.max_positions
    result = exact.converted(model={**exact.model, "max_positions": n}, task={**exact.task, "tokens_per_sample": n})
    result.state |= longer_positions(exact, n, "tile")
    return result


def _initial(kind: str, shape: Sequence[int], init: str, generator: torch.Generator) -> Tensor:
    """Block means, or random values, of a matrix (…, k, n) or of S taps of a convolution (…, S)."""
    if kind == "conv":
        mean, scale = torch.full(shape, 1 / shape[-1]), math.sqrt(1 / shape[-1])
    else:
        mean, scale = block_mean_matrix(*shape[-2:]).expand(shape).clone(), 1 / math.sqrt(shape[-2])
    return torch.randn(shape, generator=generator) * scale if init == "random" else mean
