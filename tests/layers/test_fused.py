"""The functions in fewer passes give what the plain ones give, gradients included, and keep less."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder, LinformerEncoderLayer, fused
from linformer_fairseq.layers.projection import build_projection

SIZES: dict[str, Any] = {"vocab_size": 50, "embed_dim": 32, "ffn_dim": 64, "num_heads": 4, "num_layers": 2}


@pytest.fixture()
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that turns every fused way off."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)

    def turn_off() -> None:
        monkeypatch.setattr(fused, "fuses", lambda x: False)
        monkeypatch.setattr("linformer_fairseq.layers.attention.attend", attend)

    return turn_off


@pytest.mark.parametrize("p", (0.1, 0.5, 0.9))
def test_a_mask_drops_its_share(p: float) -> None:
    torch.manual_seed(0)
    mask = fused.keep_mask((501, 401), p)
    sigma = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs((~mask).float().mean().item() - p) < 5 * sigma + 2**-16
    rows, columns = mask.float().mean(1), mask.float().mean(0)  # nor do its rows and columns deviate more than chance
    assert (
        rows.std().item() < 1.3 * (p * (1 - p) / 401) ** 0.5 and columns.std().item() < 1.3 * (p * (1 - p) / 501) ** 0.5
    )


@settings(deadline=None, max_examples=40)
@given(shape=st.lists(st.integers(0, 7), min_size=1, max_size=3), seed=st.integers(0, 2**31), p=st.floats(0, 0.999999))
def test_a_seed_fixes_the_mask(shape: list[int], seed: int, p: float) -> None:
    def draw() -> Tensor:
        torch.manual_seed(seed)
        return fused.keep_mask(tuple(shape), p)

    assert draw().shape == tuple(shape) and torch.equal(draw(), draw())


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1000, requires_grad=True)
    for dropped in (
        fused.dropout(x, 0.3, training=True),
        fused.add_dropped(torch.zeros_like(x), x, 0.3, training=True),
    ):
        values = dropped.detach().unique()
        assert values[0] == 0 and len(values) == 2 and abs(dropped.mean().item() - 1) < 5e-3
    assert torch.equal(fused.dropout(x, 0.3, training=False), x)
    assert torch.equal(fused.add_dropped(x, x, 0.3, training=False), x + x)


def seeded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(*inputs: Tensor) -> Tensor:
        torch.manual_seed(3)
        return function(*inputs)

    return call


def doubles(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_gradients_of_a_dropped_sum() -> None:
    assert torch.autograd.gradcheck(
        seeded(lambda r, x: fused.add_dropped(r, x, 0.4, training=True)), doubles((3, 5), (3, 5))
    )


@pytest.mark.parametrize("scores", (1, 2**20))
def test_gradients_of_a_projection(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SCORES", scores)
    assert torch.autograd.gradcheck(fused.project, doubles((3, 5), (4, 5, 2)))
    weight, x = doubles((3, 5), (4, 5, 2))
    assert torch.autograd.gradcheck(lambda x: fused.project(weight.detach(), x), (x,))


@pytest.mark.parametrize("activation", ("gelu", "relu"))
@pytest.mark.parametrize("rows", (2, 4096))
def test_gradients_of_the_feed_forward_sublayer(activation: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "ROWS", rows)
    fc1, fc2 = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()
    (x,) = doubles((5, 4, 1))
    parameters = [*fc1.parameters(), *fc2.parameters()]
    assert torch.autograd.gradcheck(
        lambda x, *_: fused.feed_forward(x.transpose(1, 2), fc1, fc2, activation), [x, *parameters]
    )


@pytest.mark.parametrize("of_first", (None, [True, True, False], [False, False, False]))
@pytest.mark.parametrize("scores", (1, 2**20))
def test_gradients_of_attention_with_dropout(
    of_first: list[bool] | None, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a mask, with one, and with a sample that has nothing to attend to, of which the output is zero."""
    monkeypatch.setattr(fused, "SCORES", scores)  # blocks of 32 rows at least: of 40, two
    mask = None if of_first is None else torch.tensor([of_first, [True, True, True]]).view(2, 1, 1, 3)
    inputs = doubles((2, 2, 40, 2), (2, 2, 3, 2), (2, 2, 3, 2))
    assert torch.autograd.gradcheck(seeded(lambda q, k, v: fused.attend(q, k, v, mask, 0.4)), inputs)
    if of_first is not None and not any(of_first):
        assert torch.equal(fused.attend(*inputs, mask, 0.4)[0], torch.zeros(2, 40, 2))


def test_dropout_takes_whole_attention_weights() -> None:
    q, k, _ = doubles((2, 3, 50, 8), (2, 3, 8, 8), (1,))
    weights = fused.attend(q, k, torch.eye(8, dtype=torch.float64).expand(2, 3, 8, 8), None, 0.25).detach()
    expected = torch.softmax(q @ k.transpose(2, 3) / 8**0.5, -1).detach() / 0.75
    kept = weights != 0
    torch.testing.assert_close(weights[kept], expected[kept])
    assert abs(kept.double().mean().item() - 0.75) < 0.06


def test_attention_to_nothing_is_zero() -> None:
    q, k, v = (t.bfloat16() for t in doubles((1, 2, 5, 4), (1, 2, 3, 4), (1, 2, 3, 4)))
    for p in (0.0, 0.5):
        assert not fused.attend(q, k, v, torch.zeros(1, 1, 1, 3, dtype=torch.bool), p).any()


def test_attention_in_bfloat16_is_that_of_float32_to_its_rounding() -> None:
    q, k, v = (t.float() for t in doubles((2, 4, 100, 16), (2, 4, 30, 16), (2, 4, 30, 16)))
    exact = functional.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = fused.attend(q, k, v, None, 0.0)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() <= 0.01 * exact.norm()


def outputs_and_gradients(cfg: EncoderConfig, autocast: bool = False) -> list[Tensor]:
    torch.manual_seed(0)
    encoder = LinformerEncoder(cfg)
    tokens = torch.randint(2, 50, (3, 48))
    tokens[0, 30:] = cfg.pad_index
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        features, _ = encoder(tokens)
    real = features[tokens != cfg.pad_index]
    (real.float() * torch.linspace(-1, 1, real.numel()).view(real.shape)).sum().backward()
    return [real.detach(), *(p.grad for p in encoder.parameters() if p.grad is not None)]


CASES = [
    *itertools.product(("linformer",), ("none", "headwise", "key-value", "layerwise"), ("linear", "mean-pool")),
    ("exact", "layerwise", "linear"),
]


@pytest.mark.parametrize("attention, sharing, kind", CASES)
@pytest.mark.parametrize("pre_norm", (False, True))
def test_an_encoder_gives_what_the_plain_one_gives(
    attention: str, sharing: str, kind: str, pre_norm: bool, plain: Callable[[], None]
) -> None:
    cfg = EncoderConfig(
        **SIZES, attention=attention, sharing=sharing, projection=kind, max_positions=48, projected_length=12,
        dropout=0.0, attention_dropout=0.0, normalize_before=pre_norm,
    )  # fmt: skip
    ours = outputs_and_gradients(cfg)
    plain()
    torch.testing.assert_close(ours, outputs_and_gradients(cfg), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", (4, 2**20))
def test_autocast_computes_in_16_bit_what_the_plain_one_does(
    size: int, plain: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "ROWS", size)  # many parts, whose sums must not be rounded one by one
    monkeypatch.setattr(fused, "SCORES", size)
    cfg = EncoderConfig(**SIZES, max_positions=48, projected_length=12, dropout=0.0, attention_dropout=0.0)
    ours = outputs_and_gradients(cfg, autocast=True)
    plain()
    theirs = outputs_and_gradients(cfg, autocast=True)
    exact = outputs_and_gradients(cfg)
    for mine, other, reference in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == other.dtype
        assert (mine - reference).norm() <= 1.5 * (other - reference).norm() + 1e-6


@pytest.mark.parametrize("attention", ("linformer", "exact"))
def test_recomputing_a_layer_draws_the_same_dropout(attention: str) -> None:
    settings = {**SIZES, "attention": attention, "max_positions": 48, "projected_length": 12, "dropout": 0.2}
    keeping, again = (
        outputs_and_gradients(EncoderConfig(**settings, attention_dropout=0.2, checkpoint_activations=flag))
        for flag in (False, True)
    )
    torch.testing.assert_close(keeping, again, rtol=0, atol=0)


def bytes_kept(layer: LinformerEncoderLayer, projection: Any, x: Tensor) -> int:
    """What the graph of a forward pass holds besides its parameters."""
    own = {p.untyped_storage().data_ptr() for p in [*layer.parameters(), *projection.parameters()]}
    held: dict[int, int] = {}

    def hold(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        layer(x, None, projection).sum()
    return sum(held.values())


def test_a_layer_keeps_ten_values_a_channel_where_plain_operations_keep_more(plain: Callable[[], None]) -> None:
    cfg = EncoderConfig(vocab_size=50, embed_dim=64, ffn_dim=256, num_heads=4, num_layers=1, max_positions=512,
                        projected_length=16)  # fmt: skip
    layer, projection = LinformerEncoderLayer(cfg, 0), build_projection(cfg, 16)
    x = torch.randn(2, 512, 64, requires_grad=True)
    ours = bytes_kept(layer, projection, x)
    # x, q, what attention gives, both sums before a norm, the first norm, fc1 (4); keys and values; masks of a byte.
    assert ours <= 11 * x.numel() * 4
    plain()
    assert ours <= 0.6 * bytes_kept(layer, projection, x)


def bytes_of_backward(out: Tensor) -> int:
    """The most that a backward pass takes at a time, besides what the forward pass has kept."""
    grad = torch.randn_like(out)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        torch.autograd.backward([out], [grad])
    events: Any = profiler.profiler
    return max(itertools.accumulate(e.nbytes() for e in events.kineto_results.events() if e.name() == "[memory]"))


@pytest.mark.parametrize("rows", (250, 1000))
def test_the_backward_pass_of_the_feed_forward_sublayer_holds_one_array_of_its_size(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "ROWS", rows)
    fc1, fc2 = nn.Linear(32, 128), nn.Linear(128, 32)
    x = torch.randn(1000, 32, requires_grad=True)
    activations, of_x, weights = rows * 128, x.numel(), 3 * fc1.weight.numel()
    assert bytes_of_backward(fused.feed_forward(x, fc1, fc2, "gelu")) <= 1.1 * 4 * (activations + of_x + weights)
