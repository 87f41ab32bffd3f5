"""E and F for a model with exact attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, encoder_config
from linformer_fairseq.checkpoints.names import EMBEDDING, ENCODER, POSITIONS
from linformer_fairseq.checkpoints.spectral import attention_grams
from linformer_fairseq.checkpoints.warm_start import to_linformer
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers.config import SHARINGS
from linformer_fairseq.layers.projection import block_mean_matrix

N, K, VOCABULARY = 32, 8, 40
SHAPES = {"none": (2, K, N), "headwise": (K, N), "key-value": (K, N), "layerwise": (K, N)}


def text(count: int = 4, length: int = N, seed: int = 0) -> Tensor:
    return torch.randint(4, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(checkpoint: Checkpoint, tokens: Tensor) -> Tensor:
    found: Tensor = build(checkpoint)(tokens)[0]
    return found


def matrices(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Effective E and F by name."""
    state = checkpoint.state
    names = [key for key in state if key.endswith((".E.weight", ".F.weight"))]
    return {name: state[name] * state[name.replace("weight", "lr_scale")] for name in names}


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("kind", ["linear", "conv", "mean-pool", "max-pool"])
def test_with_k_equal_to_n_nothing_changes(sharing: str, kind: str, make_checkpoint: Any) -> None:
    exact = make_checkpoint(attention="exact", local_conv=3, heads={"topic": 3})
    linformer = to_linformer(exact, str(N), None, sharing, kind)
    assert linformer.heads == ["topic"] and linformer.updates == exact.updates
    torch.testing.assert_close(logits(linformer, text()), logits(exact, text()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("init", ["block-mean", "svd", "random"])
def test_shapes_and_what_is_kept(sharing: str, init: str, make_checkpoint: Any) -> None:
    exact = make_checkpoint(attention="exact")
    linformer = to_linformer(exact, str(K), None, sharing, "linear", init, [text()])
    found = matrices(linformer)
    assert len(found) == {"none": 4, "headwise": 4, "key-value": 2, "layerwise": 1}[sharing]
    assert {matrix.shape for matrix in found.values()} == {SHAPES[sharing]}
    assert all(torch.equal(linformer.state[key], value) for key, value in exact.state.items())
    first = next(iter(found.values()))
    if init == "block-mean":
        torch.testing.assert_close(first, block_mean_matrix(K, N).expand_as(first))
    elif init == "random":
        assert first.std().item() == pytest.approx(K**-0.5, rel=0.15)
        assert len({round(matrix.sum().item(), 3) for matrix in found.values()}) == len(found)
    else:
        torch.testing.assert_close(first.sum(-1), torch.ones(first.shape[:-1]))
    assert linformer.notes[-1]["init"] == init


def test_the_learning_rate_scale_is_respected(make_checkpoint: Any) -> None:
    linformer = to_linformer(make_checkpoint(attention="exact", projection_lr_scale=0.25), str(K))
    torch.testing.assert_close(linformer.state[f"{ENCODER}E.weight"], block_mean_matrix(K, N) * 4)


def test_a_length_for_each_layer(make_checkpoint: Any) -> None:
    exact = make_checkpoint(attention="exact")
    linformer = to_linformer(exact, "8,4", None, "headwise", "linear", "svd", [text()])
    sizes = [matrix.size(0) for name, matrix in matrices(linformer).items() if ".E." in name]
    assert sizes == [8, 4]


@pytest.mark.parametrize("init", ["block-mean", "svd"])
def test_longer_and_shorter_inputs(init: str, make_checkpoint: Any) -> None:
    exact = make_checkpoint(attention="exact")
    longer = to_linformer(exact, str(K), 80, "layerwise", "linear", init, [text()])
    table, old = longer.state[POSITIONS], exact.state[POSITIONS]
    assert torch.equal(table[: 2 + N], old) and torch.equal(table[2 + N : 2 + 2 * N], old[2:])
    assert logits(longer, text(length=80)).isfinite().all()
    (matrix,) = matrices(longer).values()
    assert matrix.shape == (K, 80) and (matrix.sum(0) > 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(K))
    shorter = to_linformer(exact, str(K), 16, "layerwise", "linear", init, [text()])
    assert torch.equal(shorter.state[POSITIONS], old[: 2 + 16])
    assert shorter.task["tokens_per_sample"] == 16


def scattered_groups(make_checkpoint: Any) -> Checkpoint:
    """One layer whose keys depend on the group of a position only: K groups of equal size, scattered over N.

    Tokens have the upper half of the channels and positions the lower one; balanced signs make the layer norm a
    constant factor.
    """
    generator = torch.Generator().manual_seed(4)
    exact: Checkpoint = make_checkpoint(attention="exact", encoder_layers=1, seed=5)
    half = 8

    def signs(rows: int) -> Tensor:
        order = torch.rand(rows, half, generator=generator).argsort(1)
        return (order < half // 2).float() * 2 - 1

    groups = torch.arange(K).repeat(N // K)[torch.randperm(N, generator=generator)]
    state = {key: value.clone() for key, value in exact.state.items()}
    state[EMBEDDING][:] = torch.cat([torch.zeros(VOCABULARY, half), signs(VOCABULARY)], 1)
    state[POSITIONS][2:] = torch.cat([signs(K), torch.zeros(K, half)], 1)[groups]
    state["encoder.lm_head.weight"] = state[EMBEDDING]
    state["encoder.sentence_encoder.layernorm_embedding.weight"][:] = 1
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        weight = state[f"encoder.sentence_encoder.layers.0.self_attn.{name}.weight"]
        weight[:] = torch.randn(weight.shape, generator=generator) * 0.5
    state["encoder.sentence_encoder.layers.0.self_attn.k_proj.weight"][:, half:] = 0
    exact.state = state
    return exact


@pytest.mark.parametrize("sharing", SHARINGS)
def test_svd_of_an_attention_of_rank_k_reproduces_the_output(sharing: str, make_checkpoint: Any) -> None:
    exact = scattered_groups(make_checkpoint)
    gram = attention_grams(exact, [text()], encoder_config(to_linformer(exact, str(K))))[0]
    values = torch.linalg.eigvalsh(gram.double()).flip(0)
    assert values[K - 1] > 1e-3 * values[0] > 1e3 * abs(values[K]), "the attention of this test has rank K"
    unseen, expected = text(seed=9), logits(exact, text(seed=9))
    found = logits(to_linformer(exact, str(K), None, sharing, "linear", "svd", [text()]), unseen)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    neighbours = logits(to_linformer(exact, str(K), None, sharing), unseen)
    assert (neighbours - expected).abs().max() > 1e-2


@torch.no_grad()
def test_grams_are_those_of_the_models_attention(make_checkpoint: Any, tokens: Tensor) -> None:
    """Probed with values that are one-hot: what the model's own attention returns is P itself."""
    exact = make_checkpoint(attention="exact", seed=8)
    found = attention_grams(exact, [tokens], encoder_config(to_linformer(exact, str(K), None, "none")))
    model, expected = build(exact), []
    for layer in model.encoder.sentence_encoder.layers:
        layer.self_attn.register_forward_pre_hook(lambda module, given: expected.append(probe(module, *given[:2])))
    model(tokens)
    for gram, weights in zip(found, expected, strict=True):
        wanted = torch.zeros(2, N, N)
        wanted[:, :20, :20] = torch.einsum("bhqi,bhqj->hij", weights, weights)
        torch.testing.assert_close(gram, wanted, rtol=1e-4, atol=1e-5)
    summed = attention_grams(exact, [tokens], encoder_config(to_linformer(exact, str(K))))
    torch.testing.assert_close(summed[0], found.sum((0, 1)))


def probe(attention: Any, x: Tensor, keep: Tensor) -> Tensor:
    """P (B, H, N, N) at real queries, by asking for the weight of one key after the other."""
    q, k = (attention._heads(proj(x)) for proj in (attention.q_proj, attention.k_proj))
    eye = torch.eye(x.size(1)).expand(*q.shape[:2], -1, -1)
    weights = torch.nn.functional.scaled_dot_product_attention(q, k, eye, attn_mask=keep[:, None, None, :])
    return weights * keep[:, None, :, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init": "ones"}, "--init ones: must be one of block-mean, svd, random"),
        ({"init": "svd"}, "give binarised data with --sample"),
        ({"init": "svd", "sample": []}, "--sample holds no text"),
        ({"init": "svd", "sample": [text()], "kind": "conv"}, "--init svd is not for --projection conv"),
        ({"init": "random", "kind": "max-pool"}, "--init random is not for --projection max-pool"),
        ({"projected_length": "64"}, "does not lie between 1 and --max-positions 32"),
        ({"projected_length": "8,4"}, "layerwise has one matrix"),
        ({"kind": "conv", "projected_length": "7"}, "not a multiple"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], message: str, make_checkpoint: Any) -> None:
    with pytest.raises(UsageError, match=message):
        to_linformer(make_checkpoint(attention="exact"), **{"projected_length": str(K), **arguments})


def test_a_linformer_is_refused(make_checkpoint: Any) -> None:
    with pytest.raises(UsageError, match="with --attention linformer is not a RoBERTa; use extend"):
        to_linformer(make_checkpoint(), str(K))
