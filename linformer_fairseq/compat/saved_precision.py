"""What fairseq leaves out when it saves a run in 16 bit, so that it resumes to the bit, also in another precision.

With `--fp16` and `--bf16` fairseq updates a float32 copy of the parameters (the master weights) and saves their 16-bit
values as float32. Here it saves the float32 values in their place: files keep their form and size, fairseq reads them,
and their 16-bit values are the same. The counters of the loss scaler are saved beside its scale.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer
from omegaconf import DictConfig
from torch import Size, Tensor

ADAM = ("adam", "fused_adamw")
"""Names of optimizers whose states are the same, so that each resumes from what the other has saved."""


def keep_loss_scalers() -> None:
    """Save and load all of a loss scaler; fairseq keeps the scale of `--fp16`, and nothing of `--amp`."""
    for wrapper in (FP16Optimizer, MemoryEfficientFP16Optimizer, AMPOptimizer):
        _keep_loss_scaler(wrapper, wrapper.state_dict, wrapper.load_state_dict)


def _keep_loss_scaler(wrapper: Any, fairseq_state_dict: Any, fairseq_load_state_dict: Any) -> None:
    def state_dict(self: Any) -> dict[str, Any]:
        state: dict[str, Any] = fairseq_state_dict(self)
        if self.scaler is not None:
            own = isinstance(self, AMPOptimizer)
            counters = self.scaler.state_dict() if own else {k: v for k, v in vars(self.scaler).items() if k[0] == "_"}
            state["loss_scaler"] = counters
        return state

    def load_state_dict(self: Any, state: dict[str, Any], optimizer_overrides: Any = None) -> None:
        counters = state.get("loss_scaler", {})
        amp = "scale" in counters  # saved with --amp
        if isinstance(self, AMPOptimizer) and amp:
            self.scaler.load_state_dict(counters)
        elif isinstance(self, FP16Optimizer | MemoryEfficientFP16Optimizer) and self.scaler is not None and not amp:
            vars(self.scaler).update(counters)
        fairseq_load_state_dict(self, state, optimizer_overrides)

    wrapper.state_dict, wrapper.load_state_dict = state_dict, load_state_dict


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


def optimizer_class(cfg: DictConfig) -> str:
    """The name of the class with which fairseq's trainer will optimize; it resumes from no other one."""
    common = cfg.common
    if common.fp16 or common.bf16 or common.amp:
        if common.memory_efficient_fp16 or common.memory_efficient_bf16:
            return "MemoryEfficientFP16Optimizer"
        return "AMPOptimizer" if common.amp else "FP16Optimizer"
    return str(OPTIMIZER_REGISTRY[cfg.optimizer._name].__name__)


def adapt_optimizer_state(state: dict[str, Any], trainer: Any) -> None:
    """Bring the optimizer's state of a checkpoint into the form of this run's precision, in place.

    `--fp16` alone has one state for all parameters in a row (unless `--fp16-no-flatten-grads`).
    """
    saved, common = state.get("last_optimizer_state"), trainer.cfg.common
    if not saved or len(saved.get("param_groups", ())) != 1:
        return
    memory_efficient = common.memory_efficient_fp16 or common.memory_efficient_bf16
    flat = common.fp16 and not memory_efficient and not common.fp16_no_flatten_grads
    modules = (trainer.get_model(), trainer.get_criterion())  # not yet wrapped, which all ranks do together
    shapes = [parameter.shape for module in modules for parameter in module.parameters() if parameter.requires_grad]
    [group] = saved["param_groups"]
    if (len(group["params"]) == 1) != flat and len(shapes) > 1:
        states = [saved["state"].get(number, {}) for number in group["params"]]
        states = [_joined(states, shapes)] if flat else _split(states[0], shapes)
        saved["state"] = {number: one for number, one in enumerate(states) if one}
        group["params"] = list(range(len(states)))


def _joined(states: Sequence[dict[str, Any]], shapes: Sequence[Size]) -> dict[str, Any]:
    """One state of all parameters in a row; one without a state has had no gradient yet."""
    first = next(filter(None, states), {})
    return {
        key: torch.cat([one[key].flatten() if one else value.new_zeros(shape.numel()) for one, shape in pairs])
        if isinstance(value, Tensor)
        else max(one[key] for one in states if one)
        for key, value in first.items()
        for pairs in [list(zip(states, shapes, strict=True))]
    }


def _split(whole: dict[str, Any], shapes: Sequence[Size]) -> list[dict[str, Any]]:
    """The state of each parameter, from one of all in a row."""
    sizes = [shape.numel() for shape in shapes]
    parts = {key: torch.split(value, sizes) for key, value in whole.items() if isinstance(value, Tensor)}
    return [
        {key: parts[key][number].view(shape) if key in parts else value for key, value in whole.items()}
        for number, shape in enumerate(shapes)
    ]
