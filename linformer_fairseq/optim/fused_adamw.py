"""`--optimizer fused_adamw`: fairseq's `adam` in one pass over the parameters, on CPUs and on CUDA."""

import ast
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import Optimizer

from linformer_fairseq.errors import UsageError
from linformer_fairseq.models.config import flag


@dataclass
class FusedAdamWConfig(FairseqDataclass):
    """The settings of fairseq's `adam`, without those that choose among its implementations."""

    adam_betas: Any = flag((0.9, 0.999), "decay of the first and the second moment, such as '(0.9, 0.98)'")
    adam_eps: float = flag(1e-8, "added to the root of the second moment")
    weight_decay: float = flag(0.0, "weight decay, times the learning rate (AdamW)")
    lr: list[float] = II("optimization.lr")


class AdamW(Optimizer):
    """PyTorch's fused AdamW kernel with the update and the state of fairseq's Adam, which loads its checkpoints.

    fairseq adds eps to the root of the second moment before correcting its bias, PyTorch (and apex) after it. The two
    are the same if the kernel's eps is divided by the root of the correction.

    It does not derive from torch.optim.AdamW(fused=True), as of torch 2.13: there eps belongs to a group, while the
    correction depends on the step of each parameter, which is a tensor to be read back from a GPU, unlike the int of
    `adam`; and the kernel refuses float32 moments for 16-bit parameters.
    """

    # fairseq looks for these. (Its bfloat16 optimizer never resets the scale of optimizers that take one.)
    supports_memory_efficient_fp16 = True
    supports_flat_params = True

    factor: float | Tensor = 1.0
    """What the gradients are to be multiplied by. It lives and ends with them, so `zero_grad`, the one that every
    wrapper calls, resets it: a gradient scaler leaves out the `step` of gradients that have overflowed."""

    def lr_scale(self, parameter: Tensor, group: dict[str, Any]) -> float | None:
        """The learning rate of a parameter as a multiple of its group's; None if another rule updates it."""
        return 1.0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Discards the gradients and their factor."""
        self.factor = 1.0
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: None = None, scale: float | Tensor = 1.0) -> None:  # type: ignore[override]
        """Updates all parameters that have a gradient; divides gradients by `scale`, in place if they are float32."""
        scale, self.factor = scale / self.factor, 1.0
        for group in self.param_groups:
            alike: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                lr_scale = self.lr_scale(parameter, group)
                if parameter.grad is None or lr_scale is None:
                    continue
                if parameter.grad.is_sparse:
                    raise RuntimeError("fused_adamw takes no sparse gradients")
                state = self.state[parameter]
                state["step"] = int(state.get("step", 0)) + 1
                for name in ("exp_avg", "exp_avg_sq"):
                    if name not in state:
                        state[name] = torch.zeros_like(parameter, dtype=torch.float32)
                    # torch.optim loads it in the type of the parameter, fairseq's 16-bit optimizers leave it on the CPU
                    state[name] = state[name].to(parameter.device, torch.float32)
                # Each 16-bit parameter by itself, since its float32 copies exist only during its update.
                alone = None if parameter.dtype == torch.float32 else parameter
                alike[parameter.device, state["step"], lr_scale, alone].append(parameter)
            for (device, step, lr_scale, _), parameters in alike.items():
                self._update(group | {"lr": group["lr"] * lr_scale}, device, step, parameters, scale)

    def _update(
        self, group: dict[str, Any], device: torch.device, step: int, parameters: list[Tensor], scale: float | Tensor
    ) -> None:
        values, states = [p.float() for p in parameters], [self.state[p] for p in parameters]
        divide = isinstance(scale, Tensor) or scale != 1.0
        beta1, beta2 = group["betas"]
        adamw(
            values,
            [p.grad.float() for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            list(torch.full((len(parameters),), step - 1.0, device=device).unbind()),
            fused=True,
            grad_scale=torch.as_tensor(scale, dtype=torch.float32, device=device) if divide else None,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"] / math.sqrt(1 - beta2**step),
            maximize=False,
        )
        for parameter, value in zip(parameters, values, strict=True):
            if value is not parameter:  # 16-bit
                parameter.copy_(value)


@register_optimizer("fused_adamw", dataclass=FusedAdamWConfig)
class FusedAdamW(FairseqOptimizer):
    """Adam with decoupled weight decay: the updates of `--optimizer adam` in a fraction of the time.

    Dividing the gradients by the number of predicted tokens and clipping them only multiplies them by a factor. The
    kernel applies it, so an update reads each gradient twice: for the norm, and in the step. Until then `.grad` is that
    of the summed loss. apex is not used even if installed, as it adds eps elsewhere: a run resumed on another machine
    would change.
    """

    kind = AdamW

    def __init__(self, cfg: FusedAdamWConfig, params: Iterable[Any]) -> None:
        super().__init__(cfg)
        self._optimizer = self.kind(params, self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The settings that replace those of a checkpoint when it is loaded."""
        lr = self.cfg.lr
        return {
            "lr": lr[0] if isinstance(lr, Sequence) else lr,
            "betas": betas(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    def multiply_grads(self, c: float | Tensor) -> None:
        """Multiplies the gradients by `c` at the next step."""
        self._optimizer.factor = self._optimizer.factor * c

    @torch.no_grad()
    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The norm of all gradients; if it exceeds `max_norm` > 0, the next step scales them down to that."""
        gradients = [parameter.grad.detach() for parameter in self.params if parameter.grad is not None]
        if not gradients:
            return torch.zeros(())
        norms: Iterable[Tensor] = torch._foreach_norm(gradients, 2, dtype=torch.float32)
        norm: Tensor = torch.linalg.vector_norm(torch.stack([each.to(gradients[0].device) for each in norms]))
        if aggregate_norm_fn is not None:
            norm = aggregate_norm_fn(norm)
        norm = norm * self._optimizer.factor
        if max_norm > 0:
            self._optimizer.factor = self._optimizer.factor * (max_norm / (norm + 1e-6)).clamp(max=1)
        return norm

    def step(self, closure: None = None, scale: float | Tensor = 1.0, groups: Any = None) -> None:
        """Updates the parameters with the gradients divided by `scale`."""
        self._optimizer.step(scale=scale)

    def zero_grad(self) -> None:
        """Discards the gradients and their factor."""
        self._optimizer.zero_grad()


def betas(given: Any) -> tuple[float, float]:
    """Two numbers, from a string on the command line or a list in a configuration, or a UsageError."""
    try:
        first, second = map(float, ast.literal_eval(given) if isinstance(given, str) else given)
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError) as error:
        raise UsageError(f"--adam-betas is {given!r}: give two numbers, such as '(0.9, 0.98)'") from error
    if not (0 <= first < 1 and 0 <= second < 1):
        raise UsageError(f"--adam-betas is {given!r}: both must be at least 0 and below 1, such as '(0.9, 0.98)'")
    return first, second
