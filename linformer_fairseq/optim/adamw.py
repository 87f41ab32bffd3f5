"""Adam with decoupled weight decay, computed in one pass by the kernel that PyTorch has for CPUs and for CUDA."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer


class AdamW(Optimizer):
    """The update and the state of fairseq's Adam, whose files it loads and which loads its files.

    fairseq adds eps to the root of the second moment before the correction of its bias, PyTorch (and apex) after it.
    That is the same with an eps divided by the root of the correction, which the kernel is given here.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: share of a parameter that is taken off, times lr.
    """

    # What fairseq asks its optimizers. (Its bfloat16 optimizer never resets the scale of those that take one.)
    supports_memory_efficient_fp16 = True
    supports_flat_params = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(  # type: ignore[override]  # scale is fairseq's
        self, closure: Callable[[], float] | None = None, scale: float | Tensor = 1.0
    ) -> float | None:
        """Update all parameters that have a gradient.

        Args:
            closure: computes the loss anew, and the gradients with it.
            scale: the gradients are divided by it, in the same pass. Those of float32 parameters are so afterwards.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    raise RuntimeError("fused_adamw takes no sparse gradients")
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
                    state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
                state["step"] = int(state["step"]) + 1
                # 16-bit parameters one at a time, as each of them needs copies in 32 bit meanwhile.
                alone = None if parameter.dtype == torch.float32 else parameter
                alike[parameter.device, state["step"], alone].append(parameter)
            for (_, step, alone), parameters in alike.items():
                self._update(group, step, parameters, scale, copies=alone is not None)
        return loss

    def _update(
        self, group: dict[str, Any], step: int, parameters: list[Tensor], scale: float | Tensor, copies: bool
    ) -> None:
        device = parameters[0].device
        values = [parameter.float() if copies else parameter for parameter in parameters]
        gradients = [parameter.grad.float() for parameter in parameters if parameter.grad is not None]
        for name in ("exp_avg", "exp_avg_sq"):  # torch.optim loads a state in the type of its parameter
            for parameter in parameters:
                self.state[parameter][name] = self.state[parameter][name].float()
        if isinstance(scale, Tensor):
            divisor: Tensor | None = scale.detach().to(device, torch.float32)
        else:
            divisor = None if scale == 1.0 else torch.full((), scale, device=device)
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(
            values,
            gradients,
            [self.state[parameter]["exp_avg"] for parameter in parameters],
            [self.state[parameter]["exp_avg_sq"] for parameter in parameters],
            [],
            [torch.full((), float(step), device=device)] * len(parameters),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"] / math.sqrt(1 - beta2**step),
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )
        if copies:
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)
