"""`--optimizer muon`: orthogonalised momentum for the matrices of the layers, `fused_adamw` for all other parameters.

The matrices are those of queries, keys, values, outputs, the feed-forward sublayers and the masked-LM head's first
layer. For W of A x B with gradient G (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon):

    M ← μ M + (1 − μ) G
    W ← W − lr λ W − lr · 0.2 √max(A, B) · NS(μ M + (1 − μ) G)

NS turns U S V^T into about U V^T by a Newton-Schulz iteration. The factor 0.2 √max(A, B) gives the update the size of
Adam's (Liu et al. 2025, arXiv 2502.16982, section 2.2), so that one learning rate serves both. Embeddings, which
are also the output projection, other heads, E and F, norms and biases stay with Adam. Each of several processes
orthogonalises its share of the matrices.
"""

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
import torch.nn.functional as functional
from fairseq.optim import register_optimizer
from torch import Tensor, nn

from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers.encoder import HIDDEN
from linformer_fairseq.models.config import flag
from linformer_fairseq.optim.fused_adamw import AdamW, FusedAdamW, FusedAdamWConfig

logger = logging.getLogger(__name__)

COEFFICIENTS, STEPS = (3.4445, -4.7750, 2.0315), 5  # of the polynomial: those of Jordan et al.


@dataclass
class MuonConfig(FusedAdamWConfig):
    """The settings of `fused_adamw`, which also serve the other parameters, and the momentum of the matrices."""

    muon_momentum: float = flag(0.95, "decay of the momentum of the layers' matrices")
    muon_vector_lr_scale: float = flag(
        1.0, "learning rate of what is no matrix (norms, biases, convolutions) as a multiple of --lr"
    )


class _Muon(AdamW):
    supports_flat_params = False
    takes_momentum = True  # when a state is loaded

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of its own or of Adam, whose first moment of a matrix becomes its momentum, in place."""
        adopted = 0
        for number, parameter in enumerate(parameter for group in self.param_groups for parameter in group["params"]):
            if is_hidden(parameter) and (moments := state_dict["state"].get(number)) and "exp_avg" in moments:
                state_dict["state"][number] = {"momentum": moments["exp_avg"]}
                adopted += 1
        if adopted:
            found = f"the first moments of Adam become the momentum of {adopted} matrices"
            logger.info(f"resuming with muon: {found}, and their second moments are dropped")
        for group in state_dict["param_groups"]:  # of Adam, or of a muon that had fewer settings
            for name in ("momentum", "vector_lr_scale"):
                group.setdefault(name, self.defaults[name])
        super().load_state_dict(state_dict)

    def lr_scale(self, parameter: Tensor, group: dict[str, Any]) -> float | None:
        """None for the matrices, and that of the settings for what is no matrix."""
        if is_hidden(parameter):
            return None
        return 1.0 if parameter.dim() == 2 else float(group["vector_lr_scale"])

    @torch.no_grad()
    def step(self, closure: None = None, scale: float | Tensor = 1.0) -> None:  # type: ignore[override]
        """Updates all parameters that have a gradient, divided by `scale`."""
        for group in self.param_groups:
            alike: dict[Any, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None and is_hidden(parameter):
                    alike[parameter.shape, parameter.device].append(parameter)
            for matrices in alike.values():
                self._update_matrices(group, matrices, self.factor / scale)
        super().step(scale=scale)

    def _update_matrices(self, group: dict[str, Any], matrices: list[nn.Parameter], factor: float | Tensor) -> None:
        """One update of matrices of one shape and device, whose gradients are to be multiplied by `factor`."""
        lr, mu = group["lr"], group["momentum"]
        momenta = []
        for parameter in matrices:
            assert parameter.grad is not None
            state, gradient = self.state[parameter], parameter.grad.float() * factor
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["momentum"] = state["momentum"].to(parameter.device, torch.float32)  # loaded as parameters are
            momenta.append(gradient.lerp(state["momentum"].lerp_(gradient, 1 - mu), mu))
        size = 0.2 * math.sqrt(max(matrices[0].shape))
        for parameter, update in zip(matrices, orthogonalised(torch.stack(momenta)), strict=True):
            value = parameter.float().mul(1 - lr * group["weight_decay"])
            parameter.copy_(value.add_(update, alpha=-lr * size))


@register_optimizer("muon", dataclass=MuonConfig)
class Muon(FusedAdamW):
    """Muon for parameters whose `param_group` is `HIDDEN`, of which a model must have some, and AdamW for others."""

    kind = _Muon

    def __init__(self, cfg: MuonConfig, params: Iterable[Any]) -> None:
        params = list(params)
        if not any(map(is_hidden, params)):
            raise UsageError("--optimizer muon: this model marks no matrices for it; use a linformer_roberta")
        if not 0 <= cfg.muon_momentum < 1:
            raise UsageError(f"--muon-momentum {cfg.muon_momentum}: must be at least 0 and below 1")
        if not 0 <= cfg.muon_vector_lr_scale < math.inf:
            raise UsageError(f"--muon-vector-lr-scale {cfg.muon_vector_lr_scale}: must be a number of at least 0")
        super().__init__(cfg, params)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The settings that replace those of a checkpoint when it is loaded."""
        own = {"momentum": self.cfg.muon_momentum, "vector_lr_scale": self.cfg.muon_vector_lr_scale}
        return super().optimizer_config | own


def is_hidden(parameter: Any) -> bool:
    """Whether muon updates it. fairseq's float32 copies of 16-bit parameters keep the mark."""
    return getattr(parameter, "param_group", None) == HIDDEN


def orthogonalised(matrices: Tensor) -> Tensor:
    """`newton_schulz` of (M, A, B), float32; of several processes, each computes a share and sends it to the others."""
    ranks = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if ranks == 1:
        return newton_schulz(matrices).float()
    share = -(-len(matrices) // ranks)
    padded = functional.pad(matrices, (0, 0, 0, 0, 0, share * ranks - len(matrices)))
    own = newton_schulz(padded[distributed.get_rank() * share :][:share]).contiguous()
    whole = own.new_empty(padded.shape)
    distributed.all_gather_into_tensor(whole, own)
    return whole[: len(matrices)].float()


def newton_schulz(matrices: Tensor) -> Tensor:
    """Each of the matrices (M, A, B) with its singular values brought near 1; in 16 bit on a GPU.

    torch.optim.Muon has the same iteration for one matrix at a time and in bfloat16 everywhere, which a V100 has not.
    """
    a, b, c = COEFFICIENTS
    x: Tensor = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-7)
    if matrices.is_cuda:
        x = x.to(torch.bfloat16 if torch.cuda.get_device_capability(matrices.device) >= (8, 0) else torch.float16)
    if tall := x.size(1) > x.size(2):
        x = x.mT
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def who_updates(model: nn.Module) -> str:
    """Which parameters go to muon and which to Adam: a line each, with a * for the numbers of layers."""
    lines = [
        f"{'muon' if is_hidden(p) else 'adam'}: {re.sub(r'[.][0-9]+[.]', '.*.', name)} {tuple(p.shape)}"
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    return "\n".join(f"{line} x {number}" for line, number in sorted(Counter(lines).items()))
