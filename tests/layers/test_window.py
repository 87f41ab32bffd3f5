"""The window beside the slots: equal to attention with a dense mask, forward and backward, at a linear cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.layers.window import Slots, attend_locally
from tests.faults.padding import at_trained_scale


def dense(q: Tensor, k: Tensor, v: Tensor, window: int, keep: Tensor, slots: Slots | None) -> Tensor:
    """The definition: one softmax over the tokens of the window and the slots with a token outside it."""
    n = q.size(2)
    at = torch.arange(n)
    near = (at - at.unsqueeze(1)).abs() <= window
    seen = near & keep[:, None, None, :] | torch.eye(n, dtype=torch.bool)
    if slots is not None:
        filled = torch.ones(1, 1, 1, slots.keys.size(2), dtype=torch.bool) if slots.mask is None else slots.mask
        if slots.spans is not None:
            first, last = (t[:, None, None, :] for t in slots.spans)
            filled = filled & ~((first >= at.unsqueeze(1) - window) & (last <= at.unsqueeze(1) + window))
        seen = torch.cat([filled.expand(*seen.shape[:3], -1), seen], -1)
        k, v = torch.cat([slots.keys, k], 2), torch.cat([slots.values, v], 2)
    scores = (q @ k.transpose(2, 3) / q.size(3) ** 0.5).masked_fill(~seen, -torch.inf)
    return functional.softmax(scores, -1) @ v


@settings(max_examples=40, deadline=None)
@given(
    n=st.sampled_from((1, 5, 63, 64, 65, 200, 333)),
    window=st.sampled_from((1, 3, 64, 70)),
    pads=st.sampled_from((0, 1, 60)),
    slots=st.sampled_from(("none", "mixed", "blocks")),
    chosen=st.sampled_from((None, 1, 20)),
)
def test_equal_to_a_dense_mask(n: int, window: int, pads: int, slots: str, chosen: int | None) -> None:
    generator = torch.Generator().manual_seed(n)
    q, k, v, slot_keys, slot_values = (
        torch.randn(2, 2, m, 4, generator=generator, requires_grad=True, dtype=torch.float64) for m in (n, n, n, 8, 8)
    )
    keep = torch.arange(n).expand(2, -1) < torch.tensor([[n], [max(1, n - pads)]])
    beside = None
    if slots != "none":
        first = torch.arange(8).unsqueeze(0) * (n // 8)
        blocks = (first, first + max(1, n // 8) - 1) if slots == "blocks" else None
        mask = torch.arange(8).view(1, 1, 1, 8) < torch.tensor([8, 5]).view(2, 1, 1, 1)
        beside = Slots(slot_keys, slot_values, mask, blocks)
    needed = None if chosen is None else torch.randint(0, int(keep.sum(1).min()), (2, chosen), generator=generator)
    out = attend_locally(q, k, v, window, keep if pads else None, beside, needed, 0.0)
    expected = dense(q, k, v, window, keep if pads else torch.ones_like(keep), beside)
    rows = keep[:, None, :, None]
    if needed is not None:
        at = needed[:, None, :, None].expand(-1, 2, -1, 4)
        expected, rows = expected.gather(2, at), torch.ones(1, dtype=torch.bool)
    torch.testing.assert_close(out * rows, expected * rows)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64) * rows
    inputs = [q, k, v] + ([slot_keys, slot_values] if beside else [])
    ours, theirs = (torch.autograd.grad((result * weight).sum(), inputs) for result in (out, expected))
    torch.testing.assert_close(ours, theirs)


def test_cost_is_linear_in_the_length() -> None:
    """Products are counted by PyTorch: twice the tokens, twice the operations."""
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for n in (1024, 2048):
        q, k, v = torch.randn(3, 1, 1, n, 8)
        beside = Slots(torch.randn(1, 1, 16, 8), torch.randn(1, 1, 16, 8))
        with (
            FlopCounterMode(display=False) as counter,
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            attend_locally(q, k, v, 32, None, beside, None, 0.0)
        counts.append(counter.get_total_flops())
    assert counts[1] == 2 * counts[0] == 4 * 2048 * 8 * (16 + 64 + 2 * 32)


def test_the_control_without_slots_sees_its_window_alone() -> None:
    cfg = EncoderConfig(
        60, max_positions=100, attention="local", local_window=2, embed_dim=16, num_heads=2, num_layers=1
    )
    model = at_trained_scale(LinformerEncoder(cfg))
    embedded: list[Tensor] = []
    model.layernorm_embedding.register_forward_hook(lambda *call: embedded.append(call[2].retain_grad() or call[2]))
    model(torch.randint(2, 60, (1, 100)))[0][0, 50].square().sum().backward()
    gradient = embedded[0].grad
    assert gradient is not None
    assert gradient[0].any(-1).nonzero().flatten().tolist() == [48, 49, 50, 51, 52]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_dropout_the_expected_output_is_the_same(dtype: torch.dtype) -> None:
    q, k, v = torch.randn(3, 1, 2, 150, 8).to(dtype).requires_grad_()
    plain = attend_locally(q, k, v, 20, None, None, None, 0.0).float()
    mean = torch.stack([attend_locally(q, k, v, 20, None, None, None, 0.2).float() for _ in range(400)]).mean(0)
    torch.testing.assert_close(mean, plain, rtol=0, atol=0.15)


@torch.no_grad()
def test_a_window_as_wide_as_the_text_is_exact_attention() -> None:
    sizes = {"vocab_size": 60, "max_positions": 128, "embed_dim": 32, "ffn_dim": 32, "num_heads": 4, "num_layers": 2}
    exact = at_trained_scale(LinformerEncoder(EncoderConfig(**sizes, attention="exact")))  # type: ignore[arg-type]
    kind = {"projection": "adaptive", "projected_length": 16, "local_window": 99}
    model = LinformerEncoder(EncoderConfig(**sizes, **kind)).eval()  # type: ignore[arg-type]
    model.load_state_dict(exact.state_dict(), strict=False)
    text = torch.randint(2, 60, (2, 100))
    torch.testing.assert_close(model(text)[0], exact(text)[0], rtol=0, atol=1e-5)
