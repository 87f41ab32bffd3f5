"""Whether a graph is being made, which can neither branch on values nor, if it serves all lengths, on sizes."""

import torch


def _tracing() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def compiling() -> bool:
    """By torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or _tracing()


def exporting() -> bool:
    """One for all lengths: by torch.export, or by torch.jit.trace, which ONNX's older exporter uses."""
    return torch.compiler._is_exporting_flag or _tracing()  # torch 2.11's `is_exporting` is true in torch.compile too
