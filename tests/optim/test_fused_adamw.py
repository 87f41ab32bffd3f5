"""`--optimizer fused_adamw` makes the updates of fairseq's `adam`, and each resumes from checkpoints of the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq.optim.adam import FairseqAdam
from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer
from omegaconf import OmegaConf
from torch import nn

from linformer_fairseq.errors import UsageError
from linformer_fairseq.optim.fused_adamw import FusedAdamW

SETTINGS = {"adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.1, "lr": [1e-3]}
SHAPES = [(50, 16), (16, 16), (16,), ()]


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape).mul(0.1).to(dtype)) for shape in SHAPES]


def optimizers(dtype: torch.dtype = torch.float32) -> list[Any]:
    """fairseq's and ours, each with its own copy of the same parameters."""
    theirs = OmegaConf.create({**SETTINGS, "use_old_adam": True, "fp16_adam_stats": False})
    return [FairseqAdam(theirs, parameters(dtype)), FusedAdamW(OmegaConf.create(SETTINGS), parameters(dtype))]


def update(optimizer: Any, number: int, clip_norm: float = 0.0) -> float:
    """One update as fairseq's trainer makes it, with gradients that `number` seeds; returns their norm."""
    optimizer.zero_grad()
    rng = torch.Generator().manual_seed(number)
    # The last parameter is left out at times, and gradients are as small as those of a large model: eps matters.
    for parameter in list(optimizer.params)[: len(SHAPES) - number % 2]:
        parameter.grad = torch.randn(parameter.shape, generator=rng).to(parameter.dtype) * 1e-3
    optimizer.multiply_grads(1 / torch.tensor(600.0))
    norm = optimizer.clip_grad_norm(clip_norm)
    optimizer.set_lr(1e-3 / number)
    optimizer.step()
    return float(norm)


def assert_same(one: Any, other: Any, tolerance: float) -> None:
    for ours, theirs in zip(one.params, other.params, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("clip_norm", [0.0, 3e-5])
def test_100_updates_are_those_of_adam(clip_norm: float) -> None:
    theirs, ours = optimizers()
    start = parameters()
    for number in range(1, 101):
        assert update(ours, number, clip_norm) == pytest.approx(update(theirs, number, clip_norm), rel=1e-5)
    assert_same(ours, theirs, 1e-6)
    assert not torch.allclose(start[0], next(iter(ours.params)), atol=1e-4)


def test_16_bit_parameters_are_updated_in_32_bit() -> None:
    theirs, ours = optimizers(torch.bfloat16)
    for number in range(1, 11):
        update(theirs, number), update(ours, number)
    assert_same(ours, theirs, 2**-8)
    assert all(state["exp_avg"].dtype == torch.float32 for state in ours.optimizer.state.values())


@pytest.mark.parametrize("saved_by, continued_by", [(0, 1), (1, 0), (1, 1)])
def test_resumes_from_a_checkpoint_of_the_other(saved_by: int, continued_by: int) -> None:
    saving, undisturbed, continuing = optimizers()[saved_by], optimizers()[0], optimizers()[continued_by]
    for number in range(1, 11):
        update(saving, number), update(undisturbed, number)
    for kept, loaded in zip(saving.params, continuing.params, strict=True):
        loaded.data.copy_(kept.data)
    continuing.load_state_dict(saving.state_dict(), continuing.optimizer_config)
    for number in range(11, 21):
        update(continuing, number), update(undisturbed, number)
    assert_same(continuing, undisturbed, 1e-6)
    found, expected = (optimizer.state_dict()["state"] for optimizer in (continuing, undisturbed))
    assert found.keys() == expected.keys()
    for number, state in expected.items():
        assert found[number].keys() == state.keys()
        assert type(found[number]["step"]) is int and found[number]["step"] == state["step"]


def fp16_settings() -> Any:
    common = {
        "fp16": False,
        "bf16": True,
        "tpu": False,
        "min_loss_scale": 1e-4,
        "fp16_init_scale": 128,
        "fp16_scale_window": 1,
    }
    return OmegaConf.create({"common": {**common, "on_cpu_convert_precision": False}, "optimizer": SETTINGS})


@pytest.mark.parametrize("wrapper", [FP16Optimizer, MemoryEfficientFP16Optimizer])
def test_under_fairseqs_16_bit_optimizers(wrapper: Any) -> None:
    """As with `--bf16` on a GPU; flattened parameters need one, so these stay as they are."""
    wrapped = []
    for optimizer in optimizers(torch.bfloat16 if wrapper is MemoryEfficientFP16Optimizer else torch.float32):
        if wrapper is MemoryEfficientFP16Optimizer:
            wrapped.append(wrapper(fp16_settings(), list(optimizer.params), optimizer))
        else:
            low = [nn.Parameter(parameter.detach().bfloat16()) for parameter in optimizer.params]
            high = FP16Optimizer.build_fp32_params(None, low, flatten=False)
            optimizer.optimizer.param_groups[0]["params"] = high
            wrapped.append(wrapper(fp16_settings(), low, optimizer, high))
    for number in range(1, 11):
        for optimizer in wrapped:
            optimizer.zero_grad()
            torch.manual_seed(number)
            for parameter in getattr(optimizer, "fp16_params", None) or optimizer.params:
                parameter.grad = torch.randn_like(parameter)
            optimizer._needs_sync = True
            optimizer.multiply_grads(1 / 600)
            optimizer.clip_grad_norm(0.02)
            optimizer.step()
    assert_same(wrapped[1], wrapped[0], 2**-8 if wrapper is MemoryEfficientFP16Optimizer else 1e-6)


def test_wrong_betas_are_named() -> None:
    with pytest.raises(UsageError, match="--adam-betas is '0.9 0.98': give two numbers"):
        FusedAdamW(OmegaConf.create({**SETTINGS, "adam_betas": "0.9 0.98"}), parameters())
