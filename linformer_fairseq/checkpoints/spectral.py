"""E from the attention of a model: the k averages over positions that lose the least of what it reads.

Exact attention gives P V, with P (N, N) the weights of one head for one text. Of all k-dimensional subspaces, that of
the k leading right singular vectors U of the P of all texts, stacked, loses the least: P V - P U Uᵀ V is smallest, for
values that do not depend on position. A softmax over k slots, however, cannot give the weights P U, which are
negative in places and do not sum to 1. It can give those of a basis of averages: where the columns of P are equal
within each of k groups of positions, the means of the groups span that subspace, and with E = F = these means the
output is that of exact attention (for groups of one size). So U is turned until it is as near to such groups as
possible (QR with column pivoting, after Damle, Minden and Ying 2019), and each position goes to the nearest one.
"""

from __future__ import annotations

import scipy.linalg
import torch
from torch import Tensor

from linformer_fairseq.layers.attention import block_mean_matrix

# Weight of averages of neighbours beside the attention itself: they decide what the sample leaves open.
PRIOR = 1e-4


def spectral_matrix(gram: Tensor, k: int) -> Tensor:
    """E (k, n), rows of averages over disjoint groups of positions.

    Args:
        gram: (n, n), the sum of Pᵀ P over heads and texts, or a stack (…, n, n) for as many matrices (…, k, n).
        k: groups, at most n.
    """
    if gram.dim() > 2:
        return torch.stack([spectral_matrix(part, k) for part in gram])
    n = gram.size(0)
    blocks = block_mean_matrix(k, n).double()
    blocks /= blocks.norm(dim=1, keepdim=True)
    gram = gram.double()
    largest = torch.linalg.eigvalsh(gram)[-1].clamp_min(1e-300)
    vectors = torch.linalg.eigh(gram / largest + PRIOR * blocks.t() @ blocks)[1][:, -k:]
    groups = _groups(vectors)
    members = torch.nn.functional.one_hot(groups, k).t().double()
    members = members[torch.argsort((members @ torch.arange(n).double()) / members.sum(1))]
    return (members / members.sum(1, keepdim=True)).float()


def _groups(vectors: Tensor) -> Tensor:
    """(n, k) orthonormal columns -> (n,) group of each position, every group with a position at least."""
    k = vectors.size(1)
    pivots = torch.from_numpy(scipy.linalg.qr(vectors.t().numpy(), mode="r", pivoting=True)[1][:k].copy()).long()
    left, _, right = torch.linalg.svd(vectors[pivots].t())
    turned = vectors @ (left @ right)
    groups: Tensor = turned.abs().argmax(1)
    groups[pivots] = torch.arange(k)
    return groups
