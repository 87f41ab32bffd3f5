"""When the parameters of a layer may be used without calling it.

Others change what a layer computes: adapters (PEFT) and quantization replace it, offloading (accelerate) and pruning
bring its parameters when it is called. Only of a plain layer do its parameters say all.
"""

import torch.nn.functional as functional
from torch import Tensor, nn


def is_plain(layer: nn.Module) -> bool:
    """Whether it is PyTorch's own `Linear` or `Conv1d`, unhooked, with its own forward pass."""
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return type(layer) in (nn.Linear, nn.Conv1d) and "forward" not in layer.__dict__ and not any(hooks)


def split_bias(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """x W and b of a layer that computes x W + b, from x (B, N, C): (B, N, C), and (C,) or (B, 1, C)."""
    if is_plain(layer) and layer.bias is not None:
        return functional.linear(x, layer.weight), layer.bias
    out: Tensor = layer(functional.pad(x, (0, 0, 0, 1)))  # with a token of zeros, which becomes b
    return out[:, :-1] - out[:, -1:], out[:, -1:]
