"""Optimizers under fairseq's wrappers for 16 bit: loss scaling, gradients that overflow, the device of the state."""

from __future__ import annotations

import random
import runpy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from fairseq.optim import fp16_optimizer
from fairseq.optim.adam import FairseqAdam
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer
from omegaconf import OmegaConf
from torch import nn

from linformer_fairseq.optim.fused_adamw import FusedAdamW
from linformer_fairseq.plugin import register

register()
SHAPES = [(50, 16), (16, 16), (16,), ()]
ADAM = {"adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.1, "lr": [1e-3]}
COMMON = {"fp16": True, "bf16": False, "min_loss_scale": 1e-4, "fp16_init_scale": 128, "fp16_scale_window": 4}
SETTINGS = OmegaConf.create(
    {
        "common": {**COMMON, "fp16_scale_tolerance": 0.0, "threshold_loss_scale": None, "amp_scale_window": None},
        "optimizer": {**ADAM, "use_old_adam": True, "fp16_adam_stats": False},
        "optimization": {"update_freq": [1]},
        "distributed_training": {"distributed_world_size": 1},
    }
)


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape).mul(0.1).to(dtype)) for shape in SHAPES]


def amp(optimizer: Any) -> Any:
    return AMPOptimizer(SETTINGS, None, optimizer(SETTINGS.optimizer, parameters(torch.float32)))


def fp16(optimizer: Any) -> Any:
    low = parameters(torch.float16)
    high = FP16Optimizer.build_fp32_params(None, low, flatten=False)
    return FP16Optimizer(SETTINGS, low, optimizer(SETTINGS.optimizer, high), high)


def memory_efficient(optimizer: Any) -> Any:
    low = parameters(torch.float16)
    return MemoryEfficientFP16Optimizer(SETTINGS, low, optimizer(SETTINGS.optimizer, low))


@pytest.fixture(autouse=True)
def scaler_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", partial(torch.amp.GradScaler, "cpu"))


def update(optimizer: Any, number: int, bad: float | None = None, clip_norm: float = 1e-4) -> bool:
    """As fairseq's trainer makes one, with gradients that `number` seeds; False if they overflowed."""
    optimizer.zero_grad()
    own = list(getattr(optimizer, "fp16_params", None) or optimizer.params)
    rng = torch.Generator().manual_seed(number)
    loss = sum((one * torch.randn(one.shape, generator=rng).to(one.dtype)).sum() for one in own)
    optimizer.backward(loss)
    if bad is not None:
        own[number % 2].grad.view(-1)[0] = bad
    optimizer.multiply_grads(1 / torch.tensor(600.0))
    try:
        norm = optimizer.clip_grad_norm(clip_norm)
    except OverflowError:
        optimizer.zero_grad()
        return False
    optimizer.step()
    return bool(torch.isfinite(norm))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("optimizer", [FairseqAdam, FusedAdamW])
@pytest.mark.parametrize("wrapper", [amp, fp16, memory_efficient])
def test_overflows_leave_nothing_behind(wrapper: Callable[[Any], Any], optimizer: Any, seed: int) -> None:
    """Among 40 updates those with an infinite or undefined gradient are as if they had not been."""
    disturbed, undisturbed = wrapper(optimizer), wrapper(optimizer)
    chance = random.Random(seed)
    for number in range(40):
        bad = chance.choice((*[None] * 9, float("inf"), float("-inf"), float("nan")))
        assert update(disturbed, number, bad) is (bad is None)
        if bad is None:
            assert update(undisturbed, number)
    for one, other in zip(disturbed.optimizer.param_groups, undisturbed.optimizer.param_groups, strict=True):
        for left, right in zip(one["params"], other["params"], strict=True):
            # Scales are powers of two; only what underflows in float16 differs.
            torch.testing.assert_close(left, right, rtol=1e-6 if wrapper is amp else 1e-3, atol=1e-6)


@pytest.mark.parametrize("optimizer", [FairseqAdam, FusedAdamW])
def test_amp_divides_the_gradients_by_the_scale_once(optimizer: Any) -> None:
    """Gradients so small that eps matters, since Adam does not see a factor otherwise."""
    scaled, plain = amp(optimizer), optimizer(SETTINGS.optimizer, parameters(torch.float32))
    for number in range(5):
        assert update(scaled, number)
        assert update(plain, number)
    for left, right in zip(scaled.params, plain.params, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("wrapper", [fp16, memory_efficient])
def test_fairseq_by_itself_reads_what_is_saved(wrapper: Callable[[Any], Any]) -> None:
    """Moments and scale; the counters of the scaler it does not know."""
    saved, other = wrapper(FusedAdamW), wrapper(FusedAdamW)
    for number in range(5):  # the scale doubles after four
        update(saved, number)
    assert saved.scaler.loss_scale == 256 and saved.state_dict()["loss_scaler"]["_last_rescale_iter"] > -1
    fairseqs_own = runpy.run_module(fp16_optimizer.__name__)[type(other).__name__]
    fairseqs_own.load_state_dict(other, saved.state_dict())
    assert other.scaler.loss_scale == 256
    ones, others = (one.optimizer.state_dict()["state"] for one in (saved, other))
    assert all(torch.equal(ones[number]["exp_avg"], others[number]["exp_avg"]) for number in ones)


def test_state_follows_its_parameter_to_another_device() -> None:
    """fairseq leaves the state that it has read on the CPU."""
    saved = memory_efficient(FusedAdamW)
    update(saved, 0)
    low = [nn.Parameter(parameter.to("meta")) for parameter in parameters(torch.float16)]
    resumed = MemoryEfficientFP16Optimizer(SETTINGS, low, FusedAdamW(SETTINGS.optimizer, low))
    resumed.load_state_dict(saved.state_dict())
    for parameter in low:
        parameter.grad = torch.zeros_like(parameter)
    resumed.step()
    for state in resumed.optimizer.state.values():
        assert state["exp_avg"].device.type == state["exp_avg_sq"].device.type == "meta"
        assert state["exp_avg"].dtype == torch.float32
