"""Linear layers in 8-bit integers on a CPU.

Weights are rounded once, with a scale for each output, and inputs with a scale for each token. So a token's result does
not depend on its neighbours in a batch. It does with `torch.ao.quantization.quantize_dynamic`, which has one scale for
the whole input and is deprecated.
"""

import torch
from torch import Tensor, nn

ROWS = 512  # rounded and multiplied at a time, so that intermediate results stay in the processor's cache
LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers."""

    values: Tensor
    scales: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = _scales(weight)
        self.register_buffer("values", torch.round(weight / scales).to(torch.int8).t().contiguous())  # (in, out)
        self.register_buffer("scales", scales.squeeze(1))  # (out,)
        self.register_buffer("bias", torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out) of the same type."""
        rows = x.reshape(-1, x.size(-1)).float()
        out = rows.new_empty(rows.size(0), self.values.size(1))
        for some, result in zip(torch.split(rows, ROWS), torch.split(out, ROWS), strict=True):
            scales = _scales(some)
            torch.mul(torch._int_mm(torch.round(some / scales).to(torch.int8), self.values), scales, out=result)
            torch.addcmul(self.bias, result, self.scales, out=result)
        return out.view(*x.shape[:-1], -1).to(x.dtype)


def _scales(rows: Tensor) -> Tensor:
    """(rows, 1) the value of the integer 1 in each row; positive for a row of zeros, too."""
    scales: Tensor = torch.linalg.vector_norm(rows, torch.inf, -1, keepdim=True) / LARGEST
    return scales.clamp_(min=1e-30)


def quantize(module: nn.Module) -> nn.Module:
    """Replace every `nn.Linear` below a module, in place, and return the module."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            quantize(child)
    return module
