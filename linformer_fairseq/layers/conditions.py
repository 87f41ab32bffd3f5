"""What the layers' own fast paths depend on: whether a graph is being made, and whether a layer is as PyTorch made it.

A graph can neither branch on values nor, if it serves all lengths, on sizes. And others change what a layer computes:
adapters (PEFT) and quantization replace it, offloading (accelerate) and pruning bring its parameters when it is called.
Only of a plain layer do its parameters say all.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


def _tracing() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def compiling() -> bool:
    """By torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or _tracing()


def exporting() -> bool:
    """One for all lengths: by torch.export, or by torch.jit.trace, which ONNX's older exporter uses."""
    return torch.compiler._is_exporting_flag or _tracing()  # torch 2.11's `is_exporting` is true in torch.compile too


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
