"""Parameters of E and F with a learning rate of their own."""

from typing import Any

import torch
from torch import Tensor, nn

from .config import EncoderConfig


class LearnedProjection(nn.Module):
    """Parameters of E or F, stored so that an Adam-like optimizer moves them `lr_scale` times as fast.

    The effective matrix is `weight * lr_scale`. The size of Adam's steps does not depend on that of the gradient, so a
    step moves the effective matrix by lr_scale times the learning rate. The optimizer need not know, and it holds with
    flat fp16 parameters, sharding and fused kernels. Loading a checkpoint that was trained with another lr_scale, or
    with none, keeps the effective matrix.

    Args:
        matrix: initial effective values, of any shape.
    """

    weight: Tensor
    lr_scale: Tensor
    converts_loaded = True  # transformers loads one tensor at a time, always of the same lr_scale, and turns this off

    def __init__(self, matrix: Tensor, cfg: EncoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(matrix / cfg.projection_lr_scale, requires_grad=not cfg.freeze_projection)
        self.register_buffer("lr_scale", torch.tensor(cfg.projection_lr_scale, dtype=torch.float32))
        self._lr_scale = cfg.projection_lr_scale

    def matrix(self) -> Tensor:
        """The effective values: E or F of the paper."""
        return self.weight * self.lr_scale

    def _apply(self, *args: Any, **kwargs: Any) -> "LearnedProjection":
        """As nn.Module's, but lr_scale stays in float32: rounded to 16 bit, it would change the effective matrix."""
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.lr_scale = torch.tensor(self._lr_scale, dtype=torch.float32, device=self.lr_scale.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        weight, saved = state_dict.get(prefix + "weight"), state_dict.get(prefix + "lr_scale", torch.ones(()))
        if weight is not None and self.converts_loaded:
            if saved.item() != self.lr_scale.item():
                state_dict[prefix + "weight"] = weight * (saved / self.lr_scale.cpu()).to(weight)
            state_dict[prefix + "lr_scale"] = self.lr_scale.detach().clone()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
