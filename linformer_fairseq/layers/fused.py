"""The same layer in fewer passes over memory, for training on a CPU.

Each function here gives what the plain operations give: `add_dropped` and `feed_forward` to the rounding of a sum,
dropout with a mask of its own. On other devices, without gradients and inside a compiled or exported graph they are the
plain operations; PyTorch's own kernels and torch.compile do there what is done by hand here. (On a CPU a compiled layer
trains at 0.76 to 0.9 of the eager one's tokens/s.)

Why it pays on a CPU (one layer of base size, 4,096 tokens, 2 cores, milliseconds of about 1,100 in float32):
PyTorch's dropout draws one number after the other, 20 for each; `keep_mask` draws four at once, 3. Its mask takes 4
bytes a value, ours 1. Keeping the activations of the feed-forward sublayer takes 4 of 15 values a channel; computing
them again from what fc1 gave takes 9.

Shapes: B batch, N tokens, K projected length, H heads, D head dimension, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS = 4096  # tokens of which the feed-forward sublayer's backward pass holds the activations at once
# Attention weights, or gradients of E, held at once: 4 MiB in float32, which the caches of a CPU take.
SCORES = 2**20


def fuses(x: Tensor) -> bool:
    """Whether the functions here go their own way for x."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def keep_mask(shape: torch.Size | tuple[int, ...], p: float, generator: torch.Generator | None = None) -> Tensor:
    """A mask that is False with probability p, in steps of 1/65536, from four 16-bit numbers a draw.

    Args:
        shape: of the mask; any.
        p: from 0 to below 1.
        generator: of random numbers; by default PyTorch's own, so that its seed and state rule here as well.
    """
    return _draws(shape, generator) >= _drops(p) - 2**15


def _keep_factors(shape: torch.Size, p: float, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """What values are multiplied by: 0 with probability p, else 1/(1-p). A mask made first takes 8 times as long."""
    draws = _draws(shape, generator)
    return torch.ge(draws, _drops(p) - 2**15, out=torch.empty(shape, dtype=dtype)).mul_(_scale(p))


def _draws(shape: torch.Size | tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Random int16 of a shape, four to a 64-bit number."""
    count = torch.Size(shape).numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return draws.view(torch.int16)[:count].view(shape)


def _drops(p: float) -> int:
    """Of 65,536 values, how many are dropped."""
    return min(round(p * 2**16), 2**16 - 1)


def _scale(p: float) -> float:
    """What the others are multiplied by, so that the expected value stays."""
    return 2**16 / (2**16 - _drops(p))


def add_dropped(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """residual + dropout(x), each (…, C). Under autocast x has 16 bit and the residual and the sum 32."""
    if not (training and p and fuses(x)):
        return residual + functional.dropout(x, p, training)
    out: Tensor = _AddDropped.apply(residual, x, p)  # type: ignore[no-untyped-call]
    return out


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x with a share p of its values set to zero and the others divided by 1 - p."""
    if not (training and p and fuses(x)):
        return functional.dropout(x, p, training)
    return x * keep_mask(x.shape, p).to(x.dtype).mul_(_scale(p))


def feed_forward(x: Tensor, fc1: nn.Linear, fc2: nn.Linear, activation: str) -> Tensor:
    """fc2(activation(fc1(x))), (…, C) -> (…, C), keeping only what fc1 gives for the backward pass.

    Args:
        activation: gelu or relu.
    """
    if not fuses(x):
        plain: Tensor = fc2(getattr(functional, activation)(fc1(x)))
        return plain
    # As autocast would cast them; inside the function, where it sees no gradients, it would not.
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    inputs = [t.to(dtype) for t in (x, fc1.weight, fc1.bias, fc2.weight, fc2.bias)]
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _FeedForward.apply(*inputs, activation)  # type: ignore[no-untyped-call]
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
    """softmax(q kᵀ / sqrt(D)) v with dropout p of the attention weights; (B, H, N, D) and (B, H, K, D).

    PyTorch's CPU kernel for attention knows no dropout; with it, N x K weights, their softmax and a mask are kept for
    the backward pass. In bfloat16 it is no faster than in float32. Here the weights of some rows at a time are products
    of matrices, computed again in the backward pass; scores are rounded to the type of q, as autocast has it without a
    kernel. In float32 and without dropout PyTorch's kernel is the faster one and is called.

    Args:
        mask: bool, (B, 1, 1, K), True where a key may be attended to.
        p: 0 outside of training.
    """
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (t.to(torch.get_autocast_dtype(q.device.type)) for t in (q, k, v))
    own = q.device.type == "cpu" and not torch.compiler.is_compiling() and (p > 0 or q.dtype == torch.bfloat16)
    if not own:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _Attend.apply(q, k, v, mask, p)  # type: ignore[no-untyped-call]
    return out


def project(weight: Tensor, x: Tensor) -> Tensor:
    """weight x for each sample: (K, N) and (B, N, C) to (B, K, C), without holding B gradients of a large weight."""
    if not fuses(x):
        return torch.bmm(weight.expand(x.size(0), -1, -1), x)
    if torch.is_autocast_enabled("cpu"):
        weight, x = (t.to(torch.get_autocast_dtype("cpu")) for t in (weight, x))
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _Project.apply(weight, x)  # type: ignore[no-untyped-call]
    return out


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
        of_weight = None
        for grad_KC, x_NC in zip(grad, x, strict=True):
            of_weight = _add_product(of_weight, grad_KC, x_NC.t())
        return of_weight, grad_x


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, p: float) -> Tensor:
        keep = keep_mask(x.shape, p)
        ctx.save_for_backward(keep)
        ctx.scale, ctx.dtypes = _scale(p), (residual.dtype, x.dtype)
        dtype = torch.promote_types(*ctx.dtypes)
        return torch.addcmul(residual.to(dtype), x.to(dtype), keep.to(dtype), value=ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (keep,) = ctx.saved_tensors
        of_residual, of_x = ctx.dtypes
        return grad.to(of_residual), (keep.to(grad.dtype).mul_(ctx.scale) * grad).to(of_x), None


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
        of_weight1 = of_weight2 = None
        of_bias1 = torch.zeros(weight1.size(0), dtype=torch.promote_types(weight1.dtype, torch.float32))
        grads, xs, hiddens, outs = (t.flatten(0, -2).split(ROWS) for t in (grad, x, hidden, grad_x))
        for grad_RC, x_RC, hidden_RC, out_RC in zip(grads, xs, hiddens, outs, strict=True):
            # The activations have no name: nothing holds them when `inner`, of the same size, is made.
            of_weight2 = _add_product(of_weight2, grad_RC.t(), getattr(functional, ctx.activation)(hidden_RC))
            inner = grad_RC @ weight2
            if ctx.activation == "gelu":
                torch.ops.aten.gelu_backward.grad_input(inner, hidden_RC, grad_input=inner)
            else:
                inner.masked_fill_(hidden_RC <= 0, 0)
            of_weight1 = _add_product(of_weight1, inner.t(), x_RC)
            of_bias1 += inner.sum(0)
            torch.mm(inner, weight1, out=out_RC)
            del inner
        return grad_x, of_weight1, of_bias1, of_weight2, grad.flatten(0, -2).sum(0), None


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a b; of 16-bit products, too, the sum is one of 32 bit."""
    if total is None:
        return a @ b
    if a.dtype in (torch.bfloat16, torch.float16):
        return total.float().add_(a @ b)
    return total.addmm_(a, b)


class _Attend(torch.autograd.Function):
    """Rows of attention weights are independent of each other, so that a few are enough at any time.

    The dropout masks come from a generator of their own, whose seed PyTorch's generator draws: the backward pass makes
    them again.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.p, ctx.seed = p, int(torch.randint(2**62, ()).item()) if p else 0
        out = _like_heads(q)
        for b, rows, weights, keep in _blocks(q, k, mask, p, ctx.seed):
            out[b, :, rows] = torch.bmm(weights if keep is None else weights.mul_(keep), v[b])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask = ctx.saved_tensors
        grad_q, grad_k, grad_v = (
            _like_heads(q),
            *(torch.zeros(t.shape, dtype=torch.promote_types(t.dtype, torch.float32)) for t in (k, v)),
        )
        scale = q.size(-1) ** -0.5
        for b, rows, weights, keep in _blocks(q, k, mask, ctx.p, ctx.seed):
            grad_out = grad[b, :, rows]
            of_weights = torch.bmm(grad_out, v[b].transpose(1, 2))
            if keep is not None:
                of_weights.mul_(keep)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(scale)
            grad_q[b, :, rows] = torch.bmm(of_scores, k[b])
            grad_k[b] += torch.bmm(of_scores.transpose(1, 2), q[b, :, rows])
            grad_v[b] += torch.bmm((weights if keep is None else weights.mul_(keep)).transpose(1, 2), grad_out)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None, None


def _like_heads(q: Tensor) -> Tensor:
    """Memory for (B, H, N, D), of which (B, N, H·D) is a view."""
    return torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


def _blocks(
    q: Tensor, k: Tensor, mask: Tensor | None, p: float, seed: int
) -> Iterator[tuple[int, slice, Tensor, Tensor | None]]:
    """Sample, rows, their attention weights (H, R, K) and the factors of dropout, 0 or 1/(1-p), block by block."""
    generator = torch.Generator().manual_seed(seed)
    batch, heads, tokens, dim = q.shape
    step = max(32, SCORES // (heads * k.size(2)))
    for b in range(batch):
        keys = k[b].transpose(1, 2)
        for start in range(0, tokens, step):
            rows = slice(start, min(start + step, tokens))
            scores = torch.bmm(q[b, :, rows], keys).mul_(dim**-0.5)
            if mask is None:
                weights = torch.softmax(scores, -1)
            else:  # 0 where nothing may be attended to
                weights = torch._safe_softmax(scores.masked_fill_(~mask[b], -torch.inf), -1)
            yield b, rows, weights, _keep_factors(scores.shape, p, generator, q.dtype) if p else None
