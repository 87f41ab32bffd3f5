"""The operations of a layer in fewer passes over memory, for training on a CPU.

Each function returns what the plain operations return, up to the rounding of a sum; dropout draws masks of its own.
Without gradients, on other devices and in a compiled or exported graph they are the plain operations: there PyTorch's
kernels and torch.compile do what is done by hand here. (On a CPU a compiled layer trains at 0.76 to 0.9 of the eager
one's tokens/s.)

Others change what a linear layer computes: adapters (PEFT) and quantization replace it, offloading (accelerate) and
pruning bring its parameters when it is called. So only the parameters of a plain one are used without calling it.

On one layer of base size, 4,096 tokens, 2 cores, about 1,100 ms per step: PyTorch's dropout draws one number at a time,
20 ms; `keep_mask` four, 3 ms, into 1 byte per value instead of 4. The activations of the feed-forward sublayer are 4 of
15 values kept per channel; recomputing them takes 9 ms.

Shapes: B batch, N tokens, K projected length, H heads, D head dimension, C channels, R rows of one block.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS = 4096  # tokens per block in the backward pass of the feed-forward sublayer
SCORES = 2**20  # attention weights, or gradients of E, per block: 4 MiB in float32 fit the caches of a CPU


def _tracing() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def compiling() -> bool:
    """Whether torch.compile, torch.export, torch.jit.trace or torch.func is at work, which cannot branch on values."""
    return torch.compiler.is_compiling() or _tracing() or transforming()


def transforming() -> bool:
    """Whether a function of torch.func is at work, such as `grad` or `vmap`, which takes only plain operations."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def exporting() -> bool:
    """Whether it is one for all lengths: by torch.export, or torch.jit.trace, which ONNX's older exporter uses."""
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


def at(x: Tensor, positions: Tensor | None) -> Tensor:
    """x (B, N, C) or (B, H, N, D) at the positions (B, M) of each sample, (B, M, C) or (B, H, M, D); all for None."""
    if positions is None:
        return x
    if x.dim() == 3:
        return x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.size(2)))
    return x.gather(2, positions[:, None, :, None].expand(-1, x.size(1), -1, x.size(3)))


def fuses(x: Tensor) -> bool:
    """Whether the functions here use their own implementation for x."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not compiling()


def keep_mask(
    shape: tuple[int, ...], p: float, dtype: torch.dtype = torch.bool, generator: torch.Generator | None = None
) -> Tensor:
    """0 with probability p (0 <= p < 1, in steps of 1/65536), else 1, from four 16-bit numbers per draw."""
    count = torch.Size(shape).numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    draws = draws.view(torch.int16)[:count].view(shape)
    # Directly in the type of the result: to convert a mask takes 8 times as long.
    return torch.ge(draws, _dropped(p) - 2**15, out=torch.empty(shape, dtype=dtype))


def _dropped(p: float) -> int:
    """How many of the 65,536 values of an int16 are dropped."""
    return min(round(p * 2**16), 2**16 - 1)


def _scale(p: float) -> float:
    """The factor of the kept values, which preserves the expected value."""
    return 2**16 / (2**16 - _dropped(p))


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x with a share p of its values set to zero and the others divided by 1 - p."""
    if not (training and p and fuses(x)):
        return functional.dropout(x, p, training)
    return x * keep_mask(x.shape, p, x.dtype).mul_(_scale(p))


def add_dropped(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """residual + dropout(x), each (…, C). Under autocast x is 16-bit, the residual and the sum are float32."""
    if not (training and p and fuses(x)):
        return residual + functional.dropout(x, p, training)
    return _apply(_AddDropped, residual, x, p)


def feed_forward(x: Tensor, fc1: nn.Linear, fc2: nn.Linear, activation: str) -> Tensor:
    """fc2(activation(fc1(x))), (…, C) -> (…, C); keeps only the output of fc1 for the backward pass."""
    own = fuses(x) and all(is_plain(fc) and type(fc.weight) is type(fc.bias) is nn.Parameter for fc in (fc1, fc2))
    if not own:
        plain: Tensor = fc2(getattr(functional, activation)(fc1(x)))
        return plain
    return _apply(_FeedForward, *_autocast(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias), activation)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
    """softmax(q kᵀ / sqrt(D)) v with dropout p of the attention weights; (B, H, N, D) and (B, H, K, D).

    mask: (B, 1, 1, K) or (B, 1, N, K), each B perhaps 1, True where a key may be attended to. On a CPU, PyTorch keeps
    all weights, their softmax and a mask with dropout, and its bfloat16 kernel is no faster than the float32 one. Here
    the weights are computed block by block, again in the backward pass; scores are rounded to the type of q.
    """
    q, k, v = _autocast(q, k, v)
    own = q.device.type == "cpu" and not compiling() and (p > 0 or q.dtype == torch.bfloat16)
    if not own:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
    return _apply(_Attend, q, k, v, mask, p)


def project(weight: Tensor, x: Tensor) -> Tensor:
    """weight x for each sample: (K, N) and (B, N, C) to (B, K, C), without holding B gradients of a large weight."""
    if not fuses(x):
        return torch.bmm(weight.expand(x.size(0), -1, -1), x)
    return _apply(_Project, *_autocast(weight, x))


def _autocast(*inputs: Tensor) -> list[Tensor]:
    """The inputs, cast as autocast casts those of a product. Within an autograd function autocast does not."""
    device = inputs[0].device.type
    enabled = torch.is_autocast_enabled(device)
    return [t.to(torch.get_autocast_dtype(device)) for t in inputs] if enabled else list(inputs)


def _apply(function: Any, *inputs: Any) -> Tensor:
    # Autograd casts the gradients that a function returns to the types of its inputs.
    with torch.autocast("cpu", enabled=False):
        out: Tensor = function.apply(*inputs)
    return out


def add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a b, in place. The sum of several 16-bit products is float32."""
    if total is None:
        return a @ b
    if a.dtype in (torch.bfloat16, torch.float16):
        return total.float().add_(a @ b)
    return total.addmm_(a, b)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(weight, x)
        return torch.bmm(weight.expand(x.size(0), -1, -1), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        weight, x = ctx.saved_tensors
        grad_x = torch.bmm(weight.t().expand(x.size(0), -1, -1), grad)
        if not ctx.needs_input_grad[0]:
            return None, grad_x
        if len(x) * weight.numel() <= SCORES:
            return torch.bmm(grad, x.transpose(1, 2)).sum(0), grad_x
        grad_weight = None
        for grad_KC, x_NC in zip(grad, x, strict=True):
            grad_weight = add_product(grad_weight, grad_KC, x_NC.t())
        return grad_weight, grad_x


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, p: float) -> Tensor:
        keep = keep_mask(x.shape, p)
        ctx.save_for_backward(keep)
        ctx.scale = _scale(p)
        dtype = torch.promote_types(residual.dtype, x.dtype)
        return torch.addcmul(residual.to(dtype), x.to(dtype), keep.to(dtype), value=ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (keep,) = ctx.saved_tensors
        return grad, keep.to(grad.dtype).mul_(ctx.scale) * grad, None


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, activation: str
    ) -> Tensor:
        hidden = functional.linear(x, weight1, bias1)
        ctx.save_for_backward(x, hidden, weight1, weight2)
        ctx.activation = activation
        return functional.linear(getattr(functional, activation)(hidden), weight2, bias2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, weight1, weight2 = ctx.saved_tensors
        grad_x = torch.empty(x.shape, dtype=x.dtype)
        grad_weight1 = grad_weight2 = None
        grad_bias1 = torch.zeros(weight1.size(0), dtype=torch.promote_types(weight1.dtype, torch.float32))
        blocks = (t.flatten(0, -2).split(ROWS) for t in (grad, x, hidden, grad_x))
        for grad_RC, x_RC, hidden_RC, grad_x_RC in zip(*blocks, strict=True):
            # The activations are not bound to a name, so they are freed before `inner`, of the same size, is made.
            grad_weight2 = add_product(grad_weight2, grad_RC.t(), getattr(functional, ctx.activation)(hidden_RC))
            inner = grad_RC @ weight2
            if ctx.activation == "gelu":
                torch.ops.aten.gelu_backward.grad_input(inner, hidden_RC, grad_input=inner)
            else:
                inner.masked_fill_(hidden_RC <= 0, 0)
            grad_weight1 = add_product(grad_weight1, inner.t(), x_RC)
            grad_bias1 += inner.sum(0)
            torch.mm(inner, weight1, out=grad_x_RC)
            del inner
        return grad_x, grad_weight1, grad_bias1, grad_weight2, grad.flatten(0, -2).sum(0), None


class _Attend(torch.autograd.Function):
    """Attention block by block. A generator seeded of its own lets the backward pass redraw the dropout masks."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.p, ctx.seed = p, int(torch.randint(2**62, ()).item()) if p else 0
        out = _like_heads(q)
        for b, rows, weights, keep in _weights_by_block(q, k, mask, p, ctx.seed):
            out[b, :, rows] = torch.bmm(weights if keep is None else weights.mul_(keep), v[b])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask = ctx.saved_tensors
        grad_q = _like_heads(q)
        grad_k, grad_v = (torch.zeros(t.shape, dtype=torch.promote_types(t.dtype, torch.float32)) for t in (k, v))
        for b, rows, weights, keep in _weights_by_block(q, k, mask, ctx.p, ctx.seed):
            grad_out = grad[b, :, rows]
            grad_weights = torch.bmm(grad_out, v[b].transpose(1, 2))
            if keep is not None:
                grad_weights.mul_(keep)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_scores.mul_(q.size(-1) ** -0.5)
            grad_q[b, :, rows] = torch.bmm(grad_scores, k[b])
            grad_k[b] += torch.bmm(grad_scores.transpose(1, 2), q[b, :, rows])
            grad_v[b] += torch.bmm((weights if keep is None else weights.mul_(keep)).transpose(1, 2), grad_out)
        return grad_q, grad_k, grad_v, None, None


def _like_heads(q: Tensor) -> Tensor:
    """Memory for (B, H, N, D), laid out as (B, N, H·D)."""
    return torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


def _weights_by_block(
    q: Tensor, k: Tensor, mask: Tensor | None, p: float, seed: int
) -> Iterator[tuple[int, slice, Tensor, Tensor | None]]:
    """For each block: sample, rows, their attention weights (H, R, K), and the factors of dropout or None."""
    generator = torch.Generator().manual_seed(seed)
    batch, heads, tokens, dim = q.shape
    step = max(32, SCORES // (heads * k.size(2)))
    # 0 where nothing may be attended to, at nearly four times the cost: only where there is such a row.
    softmax = torch.softmax if mask is None or bool(mask.any(-1).all()) else torch._safe_softmax
    for b in range(batch):
        keys = k[b].transpose(1, 2)
        for start in range(0, tokens, step):
            rows = slice(start, min(start + step, tokens))
            scores = torch.bmm(q[b, :, rows], keys).mul_(dim**-0.5)
            if mask is not None:
                seen = mask[b if mask.size(0) > 1 else 0]
                scores.masked_fill_(~(seen[:, rows] if seen.size(1) > 1 else seen), -torch.inf)
            weights = softmax(scores, -1)
            keep = keep_mask(scores.shape, p, q.dtype, generator).mul_(_scale(p)) if p else None
            yield b, rows, weights, keep
