"""Cross-entropy by chunks: value and gradients of the plain way, without its logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import linformer_fairseq  # noqa: F401  (fairseq's repairs, before criterions imports it)
from linformer_fairseq.criterions import linear_cross_entropy as module
from linformer_fairseq.criterions.linear_cross_entropy import linear_cross_entropy

M, C, V = 37, 24, 101


def inputs(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor]:
    """Features, weight and bias that ask for gradients, and targets of which some are alike."""
    torch.manual_seed(0)
    leaves = [torch.randn(M, C), torch.randn(V, C), torch.randn(V)]
    return [leaf.to(dtype).requires_grad_() for leaf in leaves], torch.randint(0, V // 4, (M,))


def plain(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """As fairseq computes it."""
    logits = functional.linear(x, weight) + bias
    return functional.nll_loss(torch.log_softmax(logits, 1, dtype=torch.float32), targets, reduction="sum")


@pytest.fixture(params=[1, 5, M, 1000], ids="{} rows at a time".format)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * V * request.param)


def both(dtype: torch.dtype, scale: float) -> tuple[list[Tensor], list[Tensor]]:
    """Loss and gradients of `scale` times the loss, plain and ours."""
    results = []
    for function in (plain, linear_cross_entropy):
        leaves, targets = inputs(dtype)
        loss = function(*leaves, targets)
        (loss * scale).backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert [each.dtype for each in results[0]] == [each.dtype for each in results[1]]
    return results[0], results[1]


@pytest.mark.parametrize("scale", [1.0, 128.0])
def test_loss_and_gradients_are_the_plain_ones(chunks: None, scale: float) -> None:
    for expected, found in zip(*both(torch.float32, scale), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_16_bit_parameters(chunks: None, dtype: torch.dtype, tolerance: float) -> None:
    for expected, found in zip(*both(dtype, 16.0), strict=True):
        assert (found - expected).norm() < tolerance * expected.norm()


def test_under_autocast(chunks: None) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = both(torch.float32, 1.0)
    for expected, found in zip(*results, strict=True):
        assert (found - expected).norm() < 1e-2 * expected.norm()


def test_nothing_to_predict(chunks: None) -> None:
    (x, weight, bias), targets = inputs()
    loss = linear_cross_entropy(x[:0], weight, bias, targets[:0])
    loss.backward()
    assert loss == 0 and not weight.grad.any() and not bias.grad.any() and x.grad.shape == x.shape


def test_logits_are_never_held_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor that is made has more elements than a chunk of logits, or than the weights and their gradient."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            largest = max(largest, result.numel() if isinstance(result, Tensor) else 0)
            return result

    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * V * 8)
    leaves, targets = inputs()
    with Watch():
        linear_cross_entropy(*leaves, targets).backward()
    assert largest == V * C
    with Watch():
        plain(*leaves, targets).backward()
    assert largest == V * M
