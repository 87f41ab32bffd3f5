"""E from the attention of a model: the k averages over positions that lose the least of what it reads.

Exact attention gives P V, with P (N, N) the weights of one head for one text. Of all k-dimensional subspaces, that of
the k leading right singular vectors U of all P, stacked, loses the least: P V - P U Uᵀ V is smallest, for values that
do not depend on position. A softmax over k slots, however, cannot give the weights P U, some of which are negative. It
can give those of averages: where the columns of P are equal within each of k groups of positions, the means of the
groups span that subspace, and with E = F = these means the output is that of exact attention (for groups of one size).
So U is turned until it is as near to such groups as possible (QR with column pivoting, after Damle, Minden and Ying
2019), and each position goes to the nearest one.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import scipy.linalg
import torch
import torch.nn.functional as functional
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, encoder_config
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers import EncoderConfig, SelfAttention
from linformer_fairseq.layers.projection import block_mean_matrix

# Weight of averages of neighbours beside the attention itself: they decide what the sample leaves open.
PRIOR = 1e-4


def spectral_matrix(gram: Tensor, k: int) -> Tensor:
    """E (k, n), rows of averages over disjoint groups of positions; k is at most n.

    `gram` (n, n) is the sum of Pᵀ P over heads and texts; a stack (…, n, n) gives as many matrices (…, k, n).
    """
    if gram.dim() > 2:
        return torch.stack([spectral_matrix(part, k) for part in gram])
    n = gram.size(0)
    blocks = block_mean_matrix(k, n).double()
    blocks /= blocks.norm(dim=1, keepdim=True)
    gram = gram.double()
    largest = torch.linalg.eigvalsh(gram)[-1].clamp_min(1e-300)
    vectors = torch.linalg.eigh(gram / largest + PRIOR * blocks.t() @ blocks)[1][:, -k:]
    pivots = torch.from_numpy(scipy.linalg.qr(vectors.t().numpy(), mode="r", pivoting=True)[1][:k].copy()).long()
    left, _, right = torch.linalg.svd(vectors[pivots].t())
    groups = (vectors @ (left @ right)).abs().argmax(1)  # of each position, (n,)
    groups[pivots] = torch.arange(k)  # none is empty
    members = functional.one_hot(groups, k).t().double()
    members = members[torch.argsort((members @ torch.arange(n).double()) / members.sum(1))]
    return (members / members.sum(1, keepdim=True)).float()


class Seen(NamedTuple):
    """What an attention sublayer did with a batch."""

    attention: SelfAttention
    x: Tensor  # its input (B, N, C)
    keep: Tensor | None  # (B, N), False for a pad
    output: Tensor  # (B, N, C)


def attention_of(exact: Checkpoint, batches: Iterable[Tensor]) -> Iterator[list[Seen]]:
    """For each batch of ids (B, N), what the attention sublayers did with it, first layer first."""
    model = build(exact)
    seen: list[Seen] = []
    for layer in model.encoder.sentence_encoder.layers:
        layer.self_attn.register_forward_hook(
            lambda module, given, out: seen.append(Seen(module, given[0], given[1], out))
        )
    for batch in batches:
        with torch.no_grad():
            model(batch, features_only=True)
        yield seen
        seen.clear()


@torch.no_grad()
def attention_grams(exact: Checkpoint, sample: Iterable[Tensor], config: EncoderConfig) -> Tensor:
    """Pᵀ P, summed over real queries, texts, and those heads and layers of `exact` that share an E.

    P (N, N) are the attention weights of one head, and `config` is that of the Linformer. Positions that no text has
    get zero. A `sample` of no batches (B, N) is a UsageError.

    Returns:
        (E, n, n), one for each E, n the smaller of both lengths; with `none` one per head, (E, H, n, n).
    """
    n = min(encoder_config(exact).max_positions, config.max_positions)
    matrices = 1 if config.one_for_all_layers else config.num_layers
    grams = torch.zeros(matrices, *([config.num_heads] if config.one_per_head else []), n, n)
    texts = [text for batch in sample for text in torch.split(batch[:, :n], 4)]  # a text's weights are (H, N, N)
    if not texts:
        raise UsageError("--sample holds no text")
    for seen in attention_of(exact, texts):
        for index, (attention, x, keep, _) in enumerate(seen):
            weights = attention_weights(attention, x, keep)
            sums = torch.einsum("bhqi,bhqj->hij", weights, weights)
            grams[index % matrices, ..., : x.size(1), : x.size(1)] += sums if config.one_per_head else sums.sum(0)
    return grams


def attention_weights(attention: SelfAttention, x: Tensor, keep: Tensor | None) -> Tensor:
    """P of exact attention, (B, H, N, N) for x (B, N, C); zero for queries and keys that are pads."""
    heads = attention.cfg.num_heads
    q, k = (proj(x).unflatten(-1, (heads, -1)).transpose(1, 2) for proj in (attention.q_proj, attention.k_proj))
    scores: Tensor = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))
    if keep is None:
        return scores.softmax(-1)
    return scores.masked_fill(~keep[:, None, None, :], -torch.inf).softmax(-1) * keep[:, None, :, None]
