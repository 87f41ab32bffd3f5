"""What fairseq leaves out when it saves a run in 16 bit, so that it resumes to the bit, also in another precision.

With `--fp16` and `--bf16` fairseq updates a float32 copy of the parameters (the master weights) and saves their 16-bit
values as float32. Here it saves the float32 values in their place: files keep their form and size, fairseq reads them,
and their 16-bit values are the same. The counters of the loss scaler are saved beside its scale.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer
from torch import Size, Tensor

logger = logging.getLogger(__name__)

WRAPPERS = ("FP16Optimizer", "MemoryEfficientFP16Optimizer", "AMPOptimizer")
"""Names of fairseq's classes around an optimizer, whose state each of them loads and so does the optimizer alone."""


def keep_what_fairseq_forgets() -> None:
    """Save and load all of a loss scaler (fairseq: its scale with `--fp16`), and load the state of any precision."""
    fairseq_load_state_dict = FairseqOptimizer.load_state_dict

    def load_state_dict(self: Any, state: dict[str, Any], optimizer_overrides: Any = None) -> None:
        if not getattr(self.optimizer, "takes_momentum", False):  # of fairseq's wrappers, the one inside
            _drop_momentum(state)
        _fit_parameters(state, [parameter.shape for parameter in self.params], flat=False)
        fairseq_load_state_dict(self, state, optimizer_overrides)

    FairseqOptimizer.load_state_dict = load_state_dict
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
        of_amp = "scale" in counters
        if isinstance(self, AMPOptimizer) and of_amp:
            self.scaler.load_state_dict(counters)
        elif not isinstance(self, AMPOptimizer) and self.scaler is not None and not of_amp:
            vars(self.scaler).update(counters)
        if isinstance(self, FP16Optimizer) and self.has_flat_params:
            _drop_momentum(state)
            _fit_parameters(state, [parameter.shape for parameter in self.fp16_params], flat=True)
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
