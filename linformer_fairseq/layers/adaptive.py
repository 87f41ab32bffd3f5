"""The slots of `adaptive`, whose blocks follow the length of the text, not n: exact where short, linear where long.

A text of L tokens has min(k, L) slots. Up to k tokens, every token is a slot, so that attention is exact. Of a longer
text, the first and the last token (<s> and </s>, to which heads attend that find nothing else) keep slots of their
own, and the L - 2 tokens between them are split into k - 2 blocks, whose sizes differ by at most 1:

    slot(r) = 1 + floor((r - 1) (k - 2) / (L - 2))        for the rank 0 < r < L - 1 of a token
    (E x)_j = sum over the tokens of slot j of a_i x_i,   a = softmax within the slot of w · x_i

w starts at 0, where a slot is the mean of its tokens; a slot of one token is that token whatever w is. So the change
from L = k to L = k + 1 is one block of two tokens. Time and memory are O(N·C).

Shapes: B batch, N tokens, L real tokens of a sample, K slots, S most tokens of a slot, H heads, C channels.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fused import exporting, transforming


def pools(n: int, k: int) -> bool:
    """Whether inputs of n tokens are pooled. A graph exported for all lengths always has k slots."""
    return exporting() or n > k


def slot_means(x: Tensor, weight: Tensor, k: int, keep: Tensor | None) -> Tensor:
    """Means of the slots of x (B, N, H, D), weighted by the softmax of w · x in a slot, w (H, D): (B, K, H, D)."""
    if exporting() or transforming():
        return _scatter(x, weight, k, keep)
    if not torch.is_grad_enabled():  # which an autograd function does not see
        x, weight = x.detach(), weight.detach()
    means: Tensor = _Gather.apply(x, weight, k, keep)  # type: ignore[no-untyped-call]
    return means


def _scores(x: Tensor, weight: Tensor) -> Tensor:
    """w · x for each token and head, in float32: (B, N, H) from (B, N, H, D) and (H, D)."""
    return torch.einsum("bnhd,hd->bnh", x, weight.to(x.dtype)).float()


class _Gather(torch.autograd.Function):
    """`slot_means` by gathering, also in the backward pass, as every token is in one slot: sums have a fixed order.

    The gradient of a score is share_i (x_i - mean) · g, with g that of the slot.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, k: int, keep: Tensor | None) -> Tensor:
        batch, n, heads, dim = x.shape
        tokens_BKS, filled_BKS = members(n, k, keep, x.device)
        sample = torch.arange(batch, device=x.device).view(-1, 1, 1, 1) * n
        head = torch.arange(heads, device=x.device).view(-1, 1, 1)
        rows_BHKS = (sample + tokens_BKS.unsqueeze(1)) * heads + head
        filled, scores = filled_BKS.unsqueeze(1), _scores(x, weight)
        scores_BHKS = scores.flatten()[rows_BHKS].masked_fill(~filled, torch.finfo(scores.dtype).min)
        shares = torch.softmax(scores_BHKS, -1) * filled  # of an empty slot, zeros
        weights = shares.to(x.dtype).flatten(0, 2)
        rows = x.reshape(-1, dim)
        means = functional.embedding_bag(rows_BHKS.flatten(0, 2), rows, mode="sum", per_sample_weights=weights)
        out = means.view(batch, heads, k, dim).transpose(1, 2).contiguous()

        if not any(ctx.needs_input_grad):
            return out
        real = x.new_ones(1, n, dtype=torch.bool) if keep is None else keep
        slot = slots_of(real, k).clamp(max=k - 1)
        within = (real.long().cumsum(1) - 1 - edges(n, k, keep, x.device).gather(1, slot)).clamp(min=0)
        place = (slot * tokens_BKS.size(2) + within).unsqueeze(1).expand(batch, heads, n)
        shares_BNH = (shares.flatten(2).gather(2, place) * real.unsqueeze(1)).transpose(1, 2)
        ctx.save_for_backward(x, weight, out, shares_BNH, slot.expand(batch, n))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, weight, out, shares_BNH, slot_BN = ctx.saved_tensors
        batch, k = out.shape[:2]
        rows = (slot_BN + torch.arange(batch, device=x.device).unsqueeze(1) * k).flatten()
        of_tokens = grad.flatten(0, 1).flatten(1).index_select(0, rows).view_as(x)
        mean_BNH = (out * grad).sum(-1, dtype=torch.float32).flatten(0, 1).index_select(0, rows).view_as(shares_BNH)
        of_scores = shares_BNH * ((x * of_tokens).sum(-1, dtype=torch.float32) - mean_BNH)
        learnt = ctx.needs_input_grad[1]  # not of a frozen one
        of_weight = torch.einsum("bnh,bnhd->hd", of_scores.to(x.dtype), x) if learnt else None
        of_x = of_tokens.mul_(shares_BNH.unsqueeze(-1).to(x.dtype))
        of_x.addcmul_(of_scores.unsqueeze(-1).to(x.dtype), weight.to(x.dtype))
        return of_x, of_weight, None, None


def _scatter(x: Tensor, weight: Tensor, k: int, keep: Tensor | None) -> Tensor:
    """`slot_means` with shapes that do not depend on the sizes of blocks: for a graph that serves all lengths."""
    (batch, n, heads, dim), scores = x.shape, _scores(x, weight)
    real = x.new_ones(1, n, dtype=torch.bool) if keep is None else keep
    slot_BNH = slots_of(real, k).unsqueeze(-1).expand(batch, n, heads)
    empty = scores.new_zeros(batch, k + 1, heads)  # pads go to a slot that is cut off
    highest = (empty - torch.inf).scatter_reduce(1, slot_BNH, scores, "amax")
    parts = (scores - highest.gather(1, slot_BNH)).exp()
    shares = parts / empty.scatter_add(1, slot_BNH, parts).gather(1, slot_BNH)
    weighted = x * shares.to(x.dtype).unsqueeze(-1)
    means = x.new_zeros(batch, k + 1, heads, dim)
    return means.scatter_add(1, slot_BNH.unsqueeze(-1).expand(-1, -1, -1, dim), weighted)[:, :k]


def slots_of(real: Tensor, k: int) -> Tensor:
    """The slot of each token, (B, N) for `real` (B, N), True for a token; k for pads."""
    rank, length = real.long().cumsum(1) - 1, real.sum(1, keepdim=True)
    inner = 1 + (rank - 1) * (k - 2) // (length - 2).clamp(min=1)
    of_long = torch.where(rank == 0, 0, torch.where(rank == length - 1, k - 1, inner))
    return torch.where(real, torch.where(length > k, of_long, rank), k)


def lengths(n: int, keep: Tensor | None, device: torch.device) -> Tensor:
    """L of each sample, (B, 1), or (1, 1) without pads."""
    return torch.full((1, 1), n, device=device) if keep is None else keep.sum(1, keepdim=True)


def edges(n: int, k: int, keep: Tensor | None, device: torch.device) -> Tensor:
    """Ranks at which the k slots begin, and L: (B, k + 1), or (1, k + 1) without pads. Empty slots are the last."""
    slot, length = torch.arange(k + 1, device=device), lengths(n, keep, device)
    inner = 1 + ((slot - 1) * (length - 2) + k - 3) // (k - 2)  # 1 + ceil((slot - 1) (L - 2) / (k - 2))
    of_long = torch.where(slot == 0, 0, torch.where(slot == k, length, inner))
    return torch.where(length > k, of_long, torch.minimum(slot, length))


def members(n: int, k: int, keep: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of the tokens of each slot, and which of them count: both (B, K, S), or (1, K, S) without pads."""
    bounds = edges(n, k, keep, device)
    size = -(-(n - 2) // (k - 2))
    ranks = bounds[:, :-1, None] + torch.arange(size, device=device)
    filled = ranks < bounds[:, 1:, None]
    return position(ranks.clamp(max=n - 1), keep), filled


def position(ranks: Tensor, keep: Tensor | None) -> Tensor:
    """Positions in the input of the tokens of these ranks among the real ones; any position where there is none."""
    if keep is None:
        return ranks
    n = keep.size(1)
    rank = torch.where(keep, keep.long().cumsum(1) - 1, n)  # pads all go to a column that is cut off
    places = torch.arange(n, device=keep.device).expand_as(rank)
    order = torch.zeros(keep.size(0), n + 1, dtype=torch.long, device=keep.device).scatter(1, rank, places)
    return order.gather(1, ranks.flatten(1)).view_as(ranks)


def spans(n: int, k: int, keep: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of the first and the last token of each slot, each (B, K), or (1, K) without pads."""
    bounds = edges(n, k, keep, device)
    first, last = bounds[:, :-1].clamp(max=n - 1), (bounds[:, 1:] - 1).clamp(min=0)
    return position(first, keep), position(last, keep)
