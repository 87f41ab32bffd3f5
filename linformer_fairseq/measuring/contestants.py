"""Whole encoders of one size beside each other, ours and those of transformers, and the same in ONNX Runtime.

All have random weights, on which speed does not depend. They take ids and a mask (B, N).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import transformers
from onnxruntime.quantization import quantize_dynamic
from torch import Tensor, nn

from linformer_fairseq.hf import modeling_linformer
from linformer_fairseq.hf.configuration_linformer import LinformerConfig
from linformer_fairseq.inference.quantize import quantize
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.measuring.study import Options, flag, plain

EXACT, ROBERTA = "exact attention", "RoBERTa (SDPA)"
EFFICIENT = {name: name for name in ("Longformer", "BigBird", "Nystromformer", "Reformer")} | {
    "ModernBERT": "ModernBert"
}
"""The other efficient encoders of transformers: their names in its classes."""
PYTORCH, ONNX = "PyTorch", "ONNX Runtime"
VOCABULARY = 1000  # the embedding takes no time
SCORES = 2e9  # bytes of n x n scores, which ONNX Runtime holds
CLASSIFIER = "ForSequenceClassification"
FLAGS = [
    *plain(layers=(6, 1), k=(256, 16)),
    flag("--channels", 384, "in heads of 64", quick=64),
    flag("--local-window", [0, 64], "neighbours on each side", quick=[0, 4], least=0),
]
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Sizes:
    """What is the same for all contestants."""

    longest: int  # tokens of an input
    layers: int
    channels: int
    heads: int
    k: int  # projected length of ours
    kind: str = "Model"  # Model for features (B, N, C), or CLASSIFIER

    @classmethod
    def of(cls, options: Options, longest: int, kind: str = "Model") -> "Sizes":
        """Those that `FLAGS` ask for."""
        return cls(longest, options.layers, options.channels, options.channels // 64, options.k, kind)

    def ours(self, **options: Any) -> nn.Module:
        """This project's encoder, with options of `LinformerConfig`."""
        sizes = {"max_position_embeddings": self.longest, "projected_length": self.k}
        return self._made(LinformerConfig, modeling_linformer, "Linformer", sizes | options)

    def other(self, name: str, **options: Any) -> nn.Module:
        """One of transformers, with options of its configuration."""
        positions = {"max_position_embeddings": self.longest + 2, "pad_token_id": 1}
        return self._made(getattr(transformers, f"{name}Config"), transformers, name, positions | options)

    def _made(self, config: Any, module: Any, name: str, options: dict[str, Any]) -> nn.Module:
        """With the same random weights each time."""
        same: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "hidden_size": self.channels,
            "num_hidden_layers": self.layers,
        }
        same |= {"num_attention_heads": self.heads, "intermediate_size": 4 * self.channels}
        same |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: nn.Module = getattr(module, name + self.kind)(config(**same | options))
            return model


def usual(sizes: Sizes, windows: Sequence[int]) -> dict[str, Make]:
    """What makes ours with adaptive blocks, for each local window, and exact attention, ours and RoBERTa's."""
    adaptive = partial(sizes.ours, projection="adaptive", projection_sharing="key-value")
    ours: dict[str, Make] = {f"adaptive, k = {sizes.k}, W = {w}": partial(adaptive, local_window=w) for w in windows}
    return ours | {EXACT: partial(sizes.ours, attention="exact"), ROBERTA: partial(sizes.other, "Roberta")}


def efficient(sizes: Sizes, window: int) -> dict[str, Make]:
    """What makes the other efficient encoders, of those in `EFFICIENT` the ones that this transformers still has.

    `window` is the number of neighbours on each side where they have some. The rest is as their configurations have it,
    but for the feed-forward sublayer of ModernBERT: gated, it is made as large as that of the others.
    """
    options: dict[str, dict[str, Any]] = {
        "Longformer": {"attention_window": [2 * window] * sizes.layers},
        "BigBird": {},
        "Nystromformer": {"segment_means_seq_len": sizes.longest},
        "ModernBert": {"intermediate_size": 8 * sizes.channels // 3, "local_attention": 2 * window},
        "Reformer": {
            "attn_layers": [("local", "lsh")[i % 2] for i in range(sizes.layers)],
            "axial_pos_embds": False,
            "feed_forward_size": 4 * sizes.channels,
            "attention_head_size": sizes.channels // sizes.heads,
            "local_attention_probs_dropout_prob": 0.0,
            "lsh_attention_probs_dropout_prob": 0.0,
        },
    }
    there = {name: kind for name, kind in EFFICIENT.items() if hasattr(transformers, f"{kind}Config")}
    return {name: partial(sizes.other, kind, **options[kind]) for name, kind in there.items()}


class FirstOutput(nn.Module):
    """The first output of an encoder, of two arguments alone, which both runtimes take."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.encoder(ids, attention_mask=mask)[0]
        return out


def runner(make: Make, runtime: str, int8: bool, threads: int, graph: Path) -> Callable[[Tensor], Any]:
    """What computes the first output for ids (B, N), of which 1 is a pad. `graph` is where an ONNX file is kept."""
    torch.set_num_threads(threads)
    if runtime == PYTORCH:
        model = FirstOutput(quantize(make()) if int8 else make()).eval()
        return torch.inference_mode()(lambda ids: model(ids, ids.ne(1).long()))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(_graph(make, graph, int8), settings)
    return lambda ids: session.run(None, {"ids": ids.numpy(), "mask": ids.ne(1).long().numpy()})[0]


def _graph(make: Make, file: Path, int8: bool) -> Path:
    """The model's ONNX file, made when it is first asked for."""
    wanted = file.with_name(f"{file.stem}, int8{file.suffix}") if int8 else file
    if not wanted.exists():
        with replace_when_done(wanted) as unfinished:
            if int8:  # of the layers that are 8-bit in PyTorch
                quantize_dynamic(_graph(make, file, False), unfinished, op_types_to_quantize=["MatMul", "Gemm"])
            else:
                ids, axes = torch.full((2, 64), 5), {0: "batch", 1: "length"}
                names: dict[str, Any] = {"input_names": ["ids", "mask"], "dynamic_axes": {"ids": axes, "mask": axes}}
                torch.onnx.export(
                    FirstOutput(make()).eval(), (ids, torch.ones_like(ids)), unfinished, dynamo=False, **names
                )
    return wanted


def too_large(name: str, runtime: str, sizes: Sizes, n: int) -> bool:
    """Whether ONNX Runtime would hold too many scores of exact attention to n tokens."""
    return runtime == ONNX and name in (EXACT, ROBERTA) and 4 * sizes.heads * n**2 > SCORES
