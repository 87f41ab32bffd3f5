"""`--optimizer fused_adamw`: fairseq's `adam` in one pass over the parameters."""

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor

from linformer_fairseq.errors import UsageError
from linformer_fairseq.optim.adamw import AdamW


@dataclass
class FusedAdamWConfig(FairseqDataclass):
    """The settings of fairseq's `adam`, without those that choose among its implementations."""

    adam_betas: Any = field(
        default=(0.9, 0.999), metadata={"help": "decay of the first and the second moment, such as '(0.9, 0.98)'"}
    )
    adam_eps: float = field(default=1e-8, metadata={"help": "added to the root of the second moment"})
    weight_decay: float = field(default=0.0, metadata={"help": "weight decay, times the learning rate (AdamW)"})
    lr: list[float] = II("optimization.lr")


@register_optimizer("fused_adamw", dataclass=FusedAdamWConfig)
class FusedAdamW(FairseqOptimizer):
    """Adam with decoupled weight decay: the updates of `--optimizer adam`, at a fraction of their time.

    Dividing the gradients by the number of predicted tokens and clipping them only multiply them by a number. The
    number is kept, and the kernel applies it, so that a gradient is read twice in an update: for its norm, and here.
    Until then `.grad` holds the gradient of the summed loss.

    apex's FusedAdam is not taken where apex is installed: PyTorch's kernel makes the same single pass, on CPUs too, and
    apex adds eps elsewhere, so that a training would go on differently on another machine. `--optimizer adam` takes it.
    """

    def __init__(self, cfg: FusedAdamWConfig, params: Iterable[Any]) -> None:
        super().__init__(cfg)
        self._optimizer = AdamW(params, **self.optimizer_config)
        self._factor: float | Tensor = 1.0

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What replaces the settings in a checkpoint that is loaded."""
        lr = self.cfg.lr
        return {
            "lr": lr[0] if isinstance(lr, Sequence) else lr,
            "betas": _betas(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    def multiply_grads(self, c: float | Tensor) -> None:
        """Multiply the gradients by `c` at the next step."""
        self._factor = self._factor * c

    @torch.no_grad()
    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The norm of all gradients; where it is above `max_norm` > 0, they are scaled down to it at the next step."""
        gradients = [parameter.grad.detach() for parameter in self.params if parameter.grad is not None]
        if not gradients:
            return torch.zeros(())
        norms: Iterable[Tensor] = torch._foreach_norm(gradients, 2, dtype=torch.float32)
        norm: Tensor = torch.linalg.vector_norm(torch.stack([each.to(gradients[0].device) for each in norms]))
        if aggregate_norm_fn is not None:
            norm = aggregate_norm_fn(norm)
        norm = norm * self._factor
        if max_norm > 0:
            self._factor = self._factor * (max_norm / (norm + 1e-6)).clamp(max=1)
        return norm

    def step(self, closure: Callable[[], float] | None = None, scale: float | Tensor = 1.0, groups: Any = None) -> None:
        """Update the parameters with the gradients divided by `scale`."""
        factor, self._factor = self._factor, 1.0
        self._optimizer.step(closure, scale=scale / factor)

    def zero_grad(self) -> None:
        """Forget the gradients and what they were to be multiplied by."""
        self._factor = 1.0
        self._optimizer.zero_grad()


# fairseq goes on from a checkpoint only with an optimizer of the same name. The states are the same, so `adam` and
# `fused_adamw` may each go on from what the other has saved.
FusedAdamW.__name__ = "FairseqAdam"


def _betas(given: Any) -> tuple[float, float]:
    """The two numbers, from a string on the command line or a list in a configuration.

    Raises:
        UsageError: they are something else.
    """
    try:
        first, second = ast.literal_eval(given) if isinstance(given, str) else given
        return float(first), float(second)
    except (SyntaxError, TypeError, ValueError) as error:
        raise UsageError(f"--adam-betas is {given!r}: give two numbers, such as '(0.9, 0.98)'") from error
