"""A Linformer from a trained model with exact attention: everything is kept, and E and F are added.

Start of E and F:
    block-mean  averages of n/k neighbours
    svd         averages over the groups of positions that the model attends to alike, see spectral.py
    random      the paper's N(0, 1/k), for comparison
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from linformer_fairseq.checkpoints.checkpoint import ENCODER, POSITIONS, Checkpoint, build, encoder_config
from linformer_fairseq.checkpoints.extend import resize_matrix, resize_positions
from linformer_fairseq.checkpoints.spectral import spectral_matrix
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers import EncoderConfig, SelfAttention
from linformer_fairseq.layers.attention import block_mean_matrix

INITS = ("block-mean", "svd", "random")


def to_linformer(
    exact: Checkpoint,
    projected_length: str = "256",
    max_positions: int | None = None,
    sharing: str = "layerwise",
    kind: str = "linear",
    init: str = "block-mean",
    sample: Iterable[Tensor] | None = None,
    seed: int = 1,
) -> Checkpoint:
    """The Linformer with all parameters of a model with exact attention.

    Args:
        exact: as `roberta.from_roberta` reads it.
        projected_length: k, as for `--projected-length`.
        max_positions: n, by default that of `exact`; positions beyond its own repeat them.
        sharing: as for `--projection-sharing`.
        kind: as for `--projection`.
        init: start of E and F, see above.
        sample: batches of ids (B, N) for `svd`, best of the model's whole length (`sample.sample_blocks`).
        seed: of `random`.

    Raises:
        UsageError: settings that do not fit together, or `svd` without a sample.
    """
    if init not in INITS:
        raise UsageError(f"--init {init}: must be one of {', '.join(INITS)}")
    if init == "svd" and sample is None:
        raise UsageError("--init svd looks at the model's attention on text: give binarised data with --sample")
    if init != "block-mean" and kind.endswith("pool") or init == "svd" and kind != "linear":
        raise UsageError(f"--init {init} is not for --projection {kind}; leave it out")
    source = longer(exact, max_positions)
    model = source.model | {
        "attention": "linformer",
        "projected_length": projected_length,
        "projection": kind,
        "projection_sharing": sharing,
        "projection_init": "normal" if init == "random" else "block-mean",
    }
    note = {"conversion": "to-linformer", "init": init, "projected_length": projected_length, "projection": kind}
    note |= {"projection_sharing": sharing, "max_positions": source.model["max_positions"]}
    result = Checkpoint(dict(source.state), model, source.task, source.updates, [*source.notes, note])
    config = encoder_config(result)  # refuses what does not fit, before anything is computed
    grams = attention_grams(exact, sample, config) if init == "svd" and sample is not None else {}
    generator = torch.Generator().manual_seed(seed)
    for name, k in projection_names(config):
        if name in grams:
            result.state[name] = _from_gram(grams[name], k, config)
        else:
            result.state[name] = _start(config, k, init, generator)
        twin = name.replace(".E.", ".F.")
        if config.separate_e_and_f:
            result.state[twin] = _start(config, k, init, generator) if init == "random" else result.state[name]
    result.state = build(result).state_dict()
    return result


def longer(exact: Checkpoint, max_positions: int | None = None) -> Checkpoint:
    """The same model with exact attention for inputs of another length; positions beyond its own repeat them.

    Raises:
        UsageError: `exact` has no exact attention.
    """
    config = encoder_config(exact)
    if config.attention != "exact":
        raise UsageError(f"a checkpoint with --attention {config.attention} is no RoBERTa; use extend for a Linformer")
    n = max_positions or config.max_positions
    state = {**exact.state, POSITIONS: resize_positions(exact.state[POSITIONS], n, "tile")}
    task = {**exact.task, "tokens_per_sample": n}
    return Checkpoint(state, {**exact.model, "max_positions": n}, task, exact.updates, list(exact.notes))


def projection_names(config: EncoderConfig) -> Iterator[tuple[str, int]]:
    """Name and k of every E; that of F, where there is one, differs in that letter."""
    if not config.learns_projection:
        return
    if config.one_for_all_layers:
        yield f"{ENCODER}E.weight", config.lengths[0]
    else:
        for index, k in enumerate(config.lengths):
            yield f"{ENCODER}layers.{index}.self_attn.E.weight", k


def _start(config: EncoderConfig, k: int, init: str, generator: torch.Generator) -> Tensor:
    """Block means or random values in the shape of the parameter: (k, n), or taps of a convolution; per head or not."""
    n, heads = config.max_positions, (config.num_heads,) if config.one_per_head else ()
    if config.projection == "conv":
        shape = (*heads, config.head_dim if heads else config.embed_dim, n // k)
        mean, scale = torch.full(shape, k / n), math.sqrt(k / n)
    else:
        shape = (*heads, k, n)
        mean, scale = block_mean_matrix(k, n).expand(shape).clone(), 1 / math.sqrt(k)
    return torch.randn(shape, generator=generator) * scale if init == "random" else mean


def _from_gram(gram: Tensor, k: int, config: EncoderConfig) -> Tensor:
    """E for n positions from the attention over the first few: longer inputs stretch it."""
    known = gram.size(-1)
    matrix = spectral_matrix(gram, min(k, known))
    method = "interpolate" if config.max_positions > known else "keep"
    return resize_matrix(matrix, k, config.max_positions, method)


@torch.no_grad()
def attention_grams(exact: Checkpoint, sample: Iterable[Tensor], config: EncoderConfig) -> dict[str, Tensor]:
    """Pᵀ P, summed over real queries, texts, and those heads and layers of `exact` that share an E.

    P (N, N) are the attention weights of one head. Positions that no text has get zero.

    Returns:
        (n, n) by the name of each E, n the smaller of both lengths; with `none` one per head, (H, n, n).
    """
    model = build(exact)
    n = min(encoder_config(exact).max_positions, config.max_positions)
    names = [name for name, _ in projection_names(config)]
    shape = (config.num_heads, n, n) if config.one_per_head else (n, n)
    grams = {name: torch.zeros(shape) for name in names}

    def add(index: int, attention: SelfAttention, x: Tensor, keep: Tensor | None) -> None:
        weights = attention_weights(attention, x, keep)
        sums = torch.einsum("bhqi,bhqj->hij", weights, weights)
        into = grams[names[0 if config.one_for_all_layers else index]]
        tokens = x.size(1)
        into[..., :tokens, :tokens] += sums if config.one_per_head else sums.sum(0)

    seen = 0
    for index, layer in enumerate(model.encoder.sentence_encoder.layers):
        layer.self_attn.register_forward_pre_hook(
            lambda module, arguments, index=index: add(index, module, arguments[0], arguments[1])
        )
    for batch in sample:
        for text in torch.split(batch[:, :n], 4):  # a batch's weights are (B, H, N, N)
            model(text, features_only=True)
            seen += len(text)
    if not seen:
        raise UsageError("--sample holds no text")
    return grams


def attention_weights(attention: SelfAttention, x: Tensor, keep: Tensor | None) -> Tensor:
    """P of exact attention, (B, H, N, N) for x (B, N, C); zero for queries and keys that are pads."""
    heads = attention.cfg.num_heads
    q, k = (proj(x).unflatten(-1, (heads, -1)).transpose(1, 2) for proj in (attention.q_proj, attention.k_proj))
    scores: Tensor = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))
    if keep is None:
        return scores.softmax(-1)
    scores = scores.masked_fill(~keep[:, None, None, :], -torch.inf)
    return scores.softmax(-1) * keep[:, None, :, None]


def attentions(model: nn.Module) -> list[SelfAttention]:
    """The attention of each layer of a built model."""
    layers: Iterable[nn.Module] = model.encoder.sentence_encoder.layers  # type: ignore[union-attr, assignment]
    return [layer.self_attn for layer in layers]  # type: ignore[misc]
