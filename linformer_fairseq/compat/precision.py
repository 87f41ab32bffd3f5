"""16-bit training: --bf16 and --amp on a CPU and on CUDA, --fp16 and GPUs where they cannot work, what is saved.

What fairseq forgets is saved too, so that a run resumes to the bit, also in another precision.
"""

import logging
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from fairseq import options
from fairseq.optim import FairseqOptimizer
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer
from omegaconf import DictConfig, open_dict
from torch import Size, Tensor, nn

from linformer_fairseq.compat import Function, replaces
from linformer_fairseq.environment import unserved_gpus
from linformer_fairseq.errors import UsageError

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "fp16", "bf16"]


def on_cpu(cfg: DictConfig) -> bool:
    """Whether a run computes on CPUs: `--cpu` was given, or there is neither a GPU nor a TPU."""
    return not cfg.common.tpu and (cfg.common.cpu or not torch.cuda.is_available())


def of_matrix_products(cfg: DictConfig) -> Precision:
    """What a run computes in. --amp means bfloat16 on CPUs, and on GPUs fairseq autocasts to fp16 only."""
    if cfg.common.bf16 or (cfg.common.amp and on_cpu(cfg)):
        return "bf16"
    return "fp16" if cfg.common.fp16 or cfg.common.amp else "fp32"


def refuse_fp16_on_cpu(cfg: DictConfig) -> None:
    """Raise a UsageError for `--fp16` on a CPU before anything is loaded.

    fairseq fails with "Torch not compiled with CUDA enabled" after the data has been read; with
    `--memory-efficient-fp16` it trains, but several times slower than in 32 bit.
    """
    if on_cpu(cfg) and (cfg.common.fp16 or cfg.common.memory_efficient_fp16):
        reason = "--cpu was given" if torch.cuda.is_available() else "PyTorch finds none here"
        raise UsageError(
            f"--fp16 and --memory-efficient-fp16 need a CUDA GPU, and {reason}: use --bf16 or --amp, which compute in "
            "bfloat16 on a CPU, or none of these flags to compute in 32 bit"
        )


def refuse_unserved_gpu(cfg: DictConfig) -> None:
    """Raise a UsageError where PyTorch has no code for a GPU; its own error, at the first kernel, is a traceback."""
    if not on_cpu(cfg) and not cfg.common.tpu and (problem := unserved_gpus(torch)):
        raise UsageError(problem)


@replaces(options, "parse_args_and_arch")
def parse_flags(
    fairseq: Function, parser: ArgumentParser, input_args: Sequence[str] | None = None, *others: Any, **named: Any
) -> Any:
    """Let `--bf16` mean bfloat16 on the device at hand; fairseq turns it into `--tpu`, which needs torch_xla.

    With `--fp16` beside it, fairseq's message speaks of TPUs only, below a traceback; without `--arch`, of nothing.
    """
    given = sys.argv if input_args is None else input_args
    if {"--fp16", "--bf16"} <= set(given):
        raise SystemExit("error: --fp16 and --bf16: give one of them; --bf16 on devices that have bfloat16")
    try:
        parsed = fairseq(parser, input_args, *others, **named)
    except RuntimeError as error:
        if error.args:
            raise
        raise SystemExit("error: no --arch is given; give one, such as --arch linformer_roberta_base") from None
    args = parsed[0] if isinstance(parsed, tuple) else parsed  # a tuple with parse_known=True
    if getattr(args, "bf16", False) and "--tpu" not in given:
        args.tpu = False
    return parsed


def autocast_on_cpu(cfg: DictConfig, criterion: nn.Module) -> None:
    """Make `--bf16` and `--amp` compute the forward pass in bfloat16 on a CPU, by autocast.

    Without CUDA, fairseq ignores `--amp`, and `--bf16` wants CUDA for the 32-bit copy of the parameters. bfloat16 has
    the range of float32, so no loss needs scaling, and the checkpoints are those of a 32-bit training run; `bf16` and
    `amp` are therefore off in the trainer's configuration.
    """
    if cfg.common.bf16 or cfg.common.amp:
        logger.info("computing in bfloat16 (CPU autocast); parameters and optimizer stay in float32")
        criterion.forward = torch.autocast("cpu", dtype=torch.bfloat16)(criterion.forward)
        with open_dict(cfg):
            cfg.common.bf16 = cfg.common.memory_efficient_bf16 = cfg.common.amp = False


def keep_matrices_whole(cfg: DictConfig) -> None:
    """With `--optimizer muon --fp16`: no one flat float32 copy of all parameters, which has no matrices."""
    if getattr(cfg.get("optimizer"), "_name", None) == "muon":
        with open_dict(cfg):
            cfg.common.fp16_no_flatten_grads = True


@replaces(AMPOptimizer, "clip_grad_norm")
def scale_amp_once(_: Function, amp: Any, max_norm: float, aggregate_norm_fn: Any = None) -> torch.Tensor:
    """Let `--amp` on CUDA divide the gradients by the scale of the loss once.

    A gradient scaler remembers by the optimizer object whether that is done. fairseq unscales `optimizer` and steps
    with `fp32_optimizer`, which holds it, so that `step` divides again. Here both are `fp32_optimizer`.
    """
    amp.scaler.unscale_(amp.fp32_optimizer)
    norm: torch.Tensor = amp.fp32_optimizer.clip_grad_norm(max_norm, aggregate_norm_fn)
    if not torch.isfinite(norm).all():
        if amp.next_loss_scale <= amp.min_loss_scale:
            raise FloatingPointError(f"the loss scale has fallen to --min-loss-scale {amp.min_loss_scale}")
        logger.info(f"AMP: overflow detected, setting scale to {amp.next_loss_scale}")
    return norm


@replaces(AMPOptimizer, "multiply_grads")
def multiply_gradients_of_amp(_: Function, amp: Any, factor: Any) -> None:
    """As `scale_amp_once`."""
    amp.fp32_optimizer.multiply_grads(factor)


# Saving and resuming. fairseq updates a float32 copy of 16-bit parameters, the master weights, and saves the 16-bit
# values as float32. Here the float32 values are saved: files keep their form and size, and fairseq reads them.

WRAPPERS = ("FP16Optimizer", "MemoryEfficientFP16Optimizer", "AMPOptimizer")
"""Names of fairseq's classes around an optimizer, whose state each of them loads and so does the optimizer alone."""


@replaces(FairseqOptimizer, "load_state_dict")
def load_any_precision(fairseq: Function, optimizer: Any, state: dict[str, Any], overrides: Any = None) -> None:
    """Load the state of any precision."""
    if not getattr(optimizer.optimizer, "takes_momentum", False):  # of fairseq's wrappers, the one inside
        _drop_momentum(state)
    _fit_parameters(state, [parameter.shape for parameter in optimizer.params], flat=False)
    fairseq(optimizer, state, overrides)


@replaces(FP16Optimizer, "state_dict")
@replaces(MemoryEfficientFP16Optimizer, "state_dict")
@replaces(AMPOptimizer, "state_dict")
def save_scaler(fairseq: Function, optimizer: Any) -> dict[str, Any]:
    """Save all of a loss scaler; fairseq saves its scale with `--fp16`, and nothing with `--amp`."""
    state: dict[str, Any] = fairseq(optimizer)
    scaler = optimizer.scaler
    if isinstance(optimizer, AMPOptimizer):
        state["loss_scaler"] = scaler.state_dict()
    elif scaler is not None:
        state["loss_scaler"] = {name: value for name, value in vars(scaler).items() if name.startswith("_")}
    return state


@replaces(FP16Optimizer, "load_state_dict")
@replaces(MemoryEfficientFP16Optimizer, "load_state_dict")
@replaces(AMPOptimizer, "load_state_dict")
def load_scaler(fairseq: Function, optimizer: Any, state: dict[str, Any], overrides: Any = None) -> None:
    """Load it, if it is of the same kind."""
    saved, of_amp = state.get("loss_scaler", {}), isinstance(optimizer, AMPOptimizer)
    if optimizer.scaler is not None and of_amp == ("scale" in saved):
        load = optimizer.scaler.load_state_dict if of_amp else vars(optimizer.scaler).update
        load(saved)
    if isinstance(optimizer, FP16Optimizer) and optimizer.has_flat_params:
        _drop_momentum(state)
        _fit_parameters(state, [parameter.shape for parameter in optimizer.fp16_params], flat=True)
    fairseq(optimizer, state, overrides)


def master_weights(trainer: Any) -> dict[str, Tensor]:
    """The float32 value of each parameter that is 16-bit and has one, by its names in the model."""
    optimizer = trainer.optimizer
    if not isinstance(optimizer, FP16Optimizer):
        return {}
    masters = optimizer.fp32_params
    if optimizer.has_flat_params:
        [flat] = masters.values()
        masters = torch.split(flat.detach(), [parameter.numel() for parameter in optimizer.fp16_params])
    of = {id(low): high.detach().view_as(low) for low, high in zip(optimizer.fp16_params, masters, strict=True)}
    named = trainer.get_model().named_parameters(remove_duplicate=False)
    return {name: of[id(parameter)] for name, parameter in named if id(parameter) in of}


@contextmanager
def master_weights_restored(trainer: Any) -> Iterator[None]:
    """While `trainer` loads a checkpoint: its master weights become what the file holds in float32.

    A parameter that loading has changed on purpose, as where `--projection-lr-scale` differs, keeps its new value.
    """
    loaded: dict[str, Tensor] = {}
    note = trainer.get_model().register_load_state_dict_pre_hook(lambda _, state, *__: loaded.update(state))
    try:
        yield
    finally:
        note.remove()
    if loaded:
        low = dict(trainer.get_model().named_parameters(remove_duplicate=False))
        for name, master in master_weights(trainer).items():
            saved = loaded[name].to(master.device)
            if torch.equal(saved.to(low[name].dtype), low[name]):
                master.copy_(saved)


def _drop_momentum(state: dict[str, Any]) -> None:
    """Empty the state of an optimizer that has one moment of some parameters and two of others, in place."""
    if any("momentum" in moments for moments in state["state"].values()):
        logger.info("the moments of all parameters start anew: muon keeps none of a matrix that Adam could use")
        state["state"] = {}


def _fit_parameters(state: dict[str, Any], shapes: Sequence[Size], flat: bool) -> None:
    """Bring an optimizer's state into the form of its parameters, in place: one for each, or one `flat` for all."""
    if len(state["param_groups"]) != 1 or len(shapes) < 2:
        return
    [group] = state["param_groups"]
    if (len(group["params"]) == 1) != flat:
        states = [state["state"].get(number, {}) for number in group["params"]]
        states = [_joined(states, shapes)] if flat else _split(states[0], shapes)
        state["state"] = {number: one for number, one in enumerate(states) if one}
        group["params"] = list(range(len(states)))


def _joined(states: Sequence[dict[str, Any]], shapes: Sequence[Size]) -> dict[str, Any]:
    """One state of all parameters in a row; one without a state has had no gradient yet."""
    joined: dict[str, Any] = {}
    for key, value in next(filter(None, states), {}).items():
        if isinstance(value, Tensor):
            pairs = zip(states, shapes, strict=True)
            joined[key] = torch.cat([one[key].flatten() if one else value.new_zeros(s.numel()) for one, s in pairs])
        else:
            joined[key] = max(one[key] for one in states if one)
    return joined


def _split(whole: dict[str, Any], shapes: Sequence[Size]) -> list[dict[str, Any]]:
    """The state of each parameter, from one of all in a row."""
    states: list[dict[str, Any]] = [{} for _ in shapes]
    for key, value in whole.items():
        parts = torch.split(value, [s.numel() for s in shapes]) if isinstance(value, Tensor) else [value] * len(shapes)
        for state, shape, part in zip(states, shapes, parts, strict=True):
            state[key] = part.view(shape) if isinstance(part, Tensor) else part
    return states
