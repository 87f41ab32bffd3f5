"""What is timed: the command lines of the contestants, alike in all but what each of them brings."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import fairseq

THEIRS = Path(fairseq.__file__).parent / "examples/linformer/linformer_src"
OURS = Path(__file__).resolve().parents[3] / "linformer_fairseq"


@dataclass(frozen=True)
class Contestant:
    """One way to train."""

    name: str
    """In tables."""
    folder: str
    """For its results."""
    ours: bool
    flags: Sequence[str] = ()


# The first is what the others are compared with.
CONTESTANTS = (
    Contestant("fairseq's example, fp32", "theirs-fp32", ours=False),
    Contestant("ours, fp32", "ours-fp32", ours=True),
    Contestant("ours, bf16", "ours-bf16", ours=True, flags=("--bf16",)),
)


@dataclass(frozen=True)
class Sizes:
    """Of the model and of an update; the defaults are those of the contract."""

    layers: int = 12
    embed_dim: int = 768
    ffn_dim: int = 3072
    heads: int = 12
    projected_length: int = 256
    tokens: int = 4096
    """Of an update."""
    n: int = 512
    """Tokens of a row."""

    @classmethod
    def of(cls, options: Namespace, n: int) -> Sizes:
        """As the command line of `update_speed.py` says."""
        sizes = cls(options.layers, options.embed_dim, options.ffn_dim, options.heads, options.k, options.tokens)
        return replace(sizes, n=n)


def arguments(contestant: Contestant, sizes: Sizes, data: Path, options: Namespace) -> list[str]:
    """Of `fairseq-train`."""
    n, k = sizes.n, sizes.projected_length
    if contestant.ours:
        ours = [f"--projected-length={k}", f"--projection-sharing={options.sharing}", *contestant.flags]
        ours += [f"--task={options.task}", "--criterion=fused_masked_lm", "--optimizer=fused_adamw"]
    else:
        shared_kv, shared_layer = {"headwise": (0, 0), "key-value": (1, 0), "layerwise": (1, 1)}[options.sharing]
        ours = [f"--compressed={n // k}", f"--shared-kv-compressed={shared_kv}"]
        ours += [f"--shared-layer-kv-compressed={shared_layer}"]
        ours += ["--task=masked_lm", "--criterion=masked_lm", "--optimizer=adam"]
    sizes_of_model = [
        f"--encoder-layers={sizes.layers}",
        f"--encoder-embed-dim={sizes.embed_dim}",
        f"--encoder-ffn-embed-dim={sizes.ffn_dim}",
        f"--encoder-attention-heads={sizes.heads}",
        *("--dropout=0.1", f"--attention-dropout={options.attention_dropout}"),
    ]
    same = [
        *(f"--tokens-per-sample={n}", f"--max-positions={n}", "--sample-break-mode=none", "--mask-prob=0.15"),
        *(f"--batch-size={sizes.tokens // n}", "--required-batch-size-multiple=1", f"--num-workers={options.workers}"),
        *("--adam-betas=(0.9, 0.98)", "--adam-eps=1e-6", "--weight-decay=0.01", f"--clip-norm={options.clip_norm}"),
        *("--lr-scheduler=fixed", "--lr=1e-4", f"--max-update={options.updates}", "--seed=1"),
        *("--no-save", "--disable-validation", "--log-format=json", f"--log-interval={options.log_interval}"),
    ]
    user_dir = OURS if contestant.ours else THEIRS
    return [str(data), f"--user-dir={user_dir}", "--arch=linformer_roberta_base", *sizes_of_model, *ours, *same]
