"""Exact attention to the neighbours of each token, and to slots for the rest, in one softmax.

A token attends to itself, to the W real tokens on each side, and to each slot that holds a token farther away. Slots of
kinds without blocks (`linear`) mix all tokens and are always attended to. The queries are taken in blocks of R
tokens, each with the slots and the R + 2W tokens around it: O(N (K + R + 2W)) time and memory, forward and backward.
Every operation is PyTorch's own or `fused.attend`, so that it runs under autocast, compiled and exported.

The window of Longformer (Beltagy et al. 2020) beside projected keys and values, as in Long-Short Transformer
(Zhu et al. 2021), without its separate layer norms: the slots are projected by the same W_k and W_v as the tokens.

Shapes: B batch, N tokens, M queries, T tokens to attend to, K slots, H heads, D head dimension, R queries of a block.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor

from .fused import at, attend, exporting

QUERIES = 64  # at least W, so that at most a third of the products is masked


class Slots(NamedTuple):
    """Projected keys and values."""

    keys: Tensor  # (B, H, K, D)
    values: Tensor  # (B, H, K, D)
    mask: Tensor | None = None  # (B, 1, 1, K), which hold anything; None for all
    spans: tuple[Tensor, Tensor] | None = None  # first and last position of each, (B, K) or (1, K); None if all mix
    whole: bool = False  # every token is a slot of its own, so that a window has nothing to add


def attend_locally(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    keep: Tensor | None,
    slots: Slots | None,
    needed: Tensor | None,
    p: float,
) -> Tensor:
    """Attention to the W = `window` neighbours and to the slots, if any, with dropout p of the weights.

    q, k, v are those of all tokens, each (B, H, N, D), keep (B, N) is False for a pad, needed (B, M) has the positions
    of the tokens to attend from; None for no pads and for all tokens. Returns (B, H, N, D), or (B, H, M, D).
    """
    batch, heads, n, dim = q.shape
    rows = max(QUERIES, window)
    near, total = rows + 2 * window, 0 if slots is None else slots.keys.size(2)
    few = n if needed is None else needed.size(1)
    if not exporting() and few * (n + total) <= n * (near + total):  # all tokens, masked, cost less
        mask = dense_mask(n, window, keep, slots, q.device, needed)
        if slots is not None:
            k, v = torch.cat([slots.keys, k], 2), torch.cat([slots.values, v], 2)
        return attend(at(q, needed), k, v, mask, p)

    # A graph for all lengths can tell neither one block from several nor whether the last is full, and has two more.
    count = n // rows + 2 if exporting() else -(-n // rows)
    begins = torch.arange(count, device=q.device).unsqueeze(1) * rows
    queries, keys = begins + torch.arange(rows, device=q.device), begins - window + torch.arange(near, device=q.device)
    mask = _mask(queries.unsqueeze(0), keys, n, window, keep, slots)
    mask = mask.expand(batch, -1, -1, -1).flatten(0, 1).unsqueeze(1)
    q, k, v = _stretches(q, queries, rows, 0), _stretches(k, keys, rows, window), _stretches(v, keys, rows, window)
    if slots is not None:
        k, v = (
            torch.cat([slot.unsqueeze(1).expand(-1, count, -1, -1, -1), t], 3)
            for slot, t in ((slots.keys, k), (slots.values, v))
        )
    out = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask, p)
    joined = out.view(batch, -1, heads, rows, dim).transpose(1, 2).flatten(2, 3)[:, :, :n]
    return at(joined, needed)


def dense_mask(
    n: int, window: int, keep: Tensor | None, slots: Slots | None, device: torch.device, needed: Tensor | None = None
) -> Tensor:
    """Which slots and which of all tokens each token attends to: (B, 1, M, K + N), or (1, 1, M, K + N)."""
    places = torch.arange(n, device=device)
    queries = (places if needed is None else needed).view(-1, 1, n if needed is None else needed.size(1))
    return _mask(queries, places.view(1, n), n, window, keep, slots)


def _stretches(x: Tensor, places: Tensor, step: int, before: int) -> Tensor:
    """x (B, H, N, D) at the places (G, T), which begin `before` tokens ahead of each step-th token: (B, G, H, T, D)."""
    if exporting():  # without a length that must be seen to divide another
        return x[:, :, places.clamp(0, x.size(2) - 1)].transpose(1, 2)
    missing = places.size(0) * step - x.size(2)
    around = functional.pad(x, (0, 0, before, before + missing)).unfold(2, places.size(1), step)
    return around.permute(0, 2, 1, 4, 3)


def _mask(queries: Tensor, keys: Tensor, n: int, window: int, keep: Tensor | None, slots: Slots | None) -> Tensor:
    """Which slots and tokens each query attends to, (B, G, M, K + T), or (1, G, M, K + T) if all samples are alike.

    The queries are positions in G blocks, (B, G, M) or (1, G, M), the keys those each block may attend to, (G, T), of
    which those outside of the input hold no token.
    """
    real = ((keys >= 0) & (keys < n)).unsqueeze(0)
    if keep is not None:
        real = real & keep[:, keys.clamp(0, n - 1)]
    distance = keys.unsqueeze(1) - queries.unsqueeze(-1)
    # A pad attends to itself: a row without anything would be no number.
    seen = (distance.abs() <= window) & real.unsqueeze(2) | (distance == 0)
    if slots is None:
        return seen
    filled = slots.keys.new_ones(1, 1, 1, slots.keys.size(2), dtype=torch.bool) if slots.mask is None else slots.mask
    if slots.spans is not None:
        first, last = (t[:, None, None, :] for t in slots.spans)
        filled = filled & ((first < queries.unsqueeze(-1) - window) | (last > queries.unsqueeze(-1) + window))
    batch = max(filled.size(0), seen.size(0))
    return torch.cat([filled.expand(batch, *seen.shape[1:-1], -1), seen.expand(batch, -1, -1, -1)], -1)
