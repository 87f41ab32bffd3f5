"""Time and memory of the encoder layers of table3_efficiency.py: ours, fairseq's, and others in plain PyTorch.

All are post-LN encoder layers from (B, N, C) to (B, N, C), fairseq's from (N, B, C) to (N, B, C).
Shapes: B batch, N tokens, K projected length, H heads, D head dimension, C = H·D channels.
"""

import ctypes
import gc
import math
import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as functional
from fairseq.data import Dictionary
from torch import Tensor, nn
from torch.utils.benchmark import timer

from linformer_fairseq.layers import EncoderConfig, LinformerEncoderLayer
from linformer_fairseq.layers.projection import build_projection
from linformer_fairseq.measuring.official_example import build_official_encoder
from linformer_fairseq.measuring.study import forget_peak, status
from linformer_fairseq.training.hardware import keep_freed_memory

ROUND_SECONDS = 0.5  # the least that is timed at once
# Options of glibc's mallopt (malloc.h) -> values.
GIVE_BACK = {-4: 65536, -3: 2**16, -1: 0}


@dataclass(frozen=True)
class Entry:
    """One contestant at one size, with tokens/n inputs of n tokens in a step."""

    kind: str  # time, or memory: see `cost`
    contestant: str
    n: int
    k: int
    tokens: int
    mode: str  # train, forward and backward with dropout; or forward
    dtype: str  # fp32; or bf16 or fp16, which are autocast
    embed_dim: int
    heads: int
    ffn_dim: int
    dropout: float


class Layer(nn.Module):
    """Attention and feed-forward sublayer, each with dropout, residual and layer norm."""

    def __init__(self, sizes: Entry, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(sizes.embed_dim)
        self.fc1 = nn.Linear(sizes.embed_dim, sizes.ffn_dim)
        self.fc2 = nn.Linear(sizes.ffn_dim, sizes.embed_dim)
        self.final_norm = nn.LayerNorm(sizes.embed_dim)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x)))
        out: Tensor = self.final_norm(x + self.dropout(self.fc2(functional.gelu(self.fc1(x)))))
        return out


class ExactAttention(nn.Module):
    """Softmax attention to all tokens: by `scaled_dot_product_attention`, or with the N x N matrices in memory."""

    def __init__(self, sizes: Entry, in_memory: bool = False) -> None:
        super().__init__()
        self.heads, self.in_memory = sizes.heads, in_memory
        self.q, self.k, self.v, self.out = (nn.Linear(sizes.embed_dim, sizes.embed_dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        if self.in_memory:
            weights = torch.softmax(q / math.sqrt(q.size(-1)) @ k.transpose(-2, -1), dim=-1)
            mixed = weights.to(v.dtype) @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out


class WithArguments(nn.ModuleList):
    """A layer that takes a mask, here None, and perhaps the encoder's one E, which is trained with it."""

    def forward(self, x: Tensor) -> Tensor:
        layer, *shared = self
        out: Tensor = layer(x, None, *shared)
        return out


def ours(s: Entry, **options: Any) -> nn.Module:
    """This project's layer with layerwise sharing and these options of `EncoderConfig`."""
    # The start of E has no part in the speed, and this one is built without the memory of block means.
    same: Any = {"dropout": s.dropout, "attention_dropout": 0.0, "num_layers": 1, "projection_init": "normal"}
    same |= {"embed_dim": s.embed_dim, "ffn_dim": s.ffn_dim, "num_heads": s.heads}
    cfg = EncoderConfig(max_positions=s.n, projected_length=s.k, **same, **options)
    return WithArguments([LinformerEncoderLayer(cfg, 0), build_projection(cfg, s.k)])


def official(s: Entry) -> nn.Module:
    """The layer of fairseq's example."""
    sizes = {"encoder_embed_dim": s.embed_dim, "encoder_ffn_embed_dim": s.ffn_dim, "encoder_attention_heads": s.heads}
    encoder: Any = build_official_encoder(
        Dictionary(), "headwise", s.n, s.k, dropout=s.dropout, encoder_layers=1, **sizes
    )
    return WithArguments([encoder.layers[0]])


def lucidrains(sizes: Entry) -> nn.Module:
    module = import_module("linformer")
    return Layer(sizes, module.LinformerSelfAttention(sizes.embed_dim, sizes.n, k=sizes.k, heads=sizes.heads))


PLAIN = "exact attention with the n x n softmax in memory, the paper's baseline"
FAIRSEQ = "fairseq's examples/linformer, its default sharing (headwise); drops attention weights by --dropout"
ADAPTIVE = "ours with --projection adaptive, blocks that follow the length of the text"
CONTESTANTS: dict[str, tuple[str, Callable[[Entry], nn.Module]]] = {
    "ours": ("this project's layer, layerwise sharing", ours),
    "adaptive": (ADAPTIVE, partial(ours, projection="adaptive")),
    "adaptive-w64": (f"{ADAPTIVE}, and --local-window 64", partial(ours, projection="adaptive", local_window=64)),
    "exact": ("exact attention by SDPA in plain PyTorch", lambda s: Layer(s, ExactAttention(s))),
    "plain": (PLAIN, lambda s: Layer(s, ExactAttention(s, in_memory=True))),
    "fairseq": (FAIRSEQ, official),
    "lucidrains": ("attention of the package linformer 0.2.3 in the plain layer", lucidrains),
}
"""Columns of the tables: what each is, and what makes the layer."""

OURS = ("ours", "adaptive", "adaptive-w64")  # of this project
EXACT = ("exact", "plain")
"""Those that know no k."""


def missing(name: str) -> str | None:
    """Why a contestant cannot be built here, if so."""
    if name == "lucidrains" and find_spec("linformer") is None:
        return "not installed: pip install --no-deps linformer==0.2.3"
    return None


class Runner:
    """One entry, ready to take steps."""

    def __init__(self, entry: Entry, device: str) -> None:
        torch.manual_seed(0)
        self.entry, self.device, self.train = entry, device, entry.mode == "train"
        self.layer = CONTESTANTS[entry.contestant][1](entry).to(device).train(self.train)
        n, batch = entry.n, entry.tokens // entry.n
        shape = (*((n, batch) if entry.contestant == "fairseq" else (batch, n)), entry.embed_dim)
        self.x = torch.randn(shape, device=device, requires_grad=self.train)
        self.grad = torch.randn(shape, device=device)

    def step(self, small: bool = False) -> None:
        """Forward, and in training backward from a random gradient of the output.

        A small step has one input of k + 1 tokens: everything is loaded then, and the parameters have gradients.
        """
        x, grad = self.x, self.grad
        if small:
            one, few = slice(1), slice(self.entry.k + 1)
            part = (few, one) if self.entry.contestant == "fairseq" else (one, few)
            x, grad = x.detach()[part].clone().requires_grad_(self.train), grad[part]
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.entry.dtype)
        autocast = torch.autocast(self.device, half) if half else nullcontext()
        with torch.set_grad_enabled(self.train), autocast:
            out = self.layer(x)
        if self.train:
            out.backward(grad.to(out.dtype))

    def seconds(self, steps: int = 1) -> float:
        """Mean seconds of a step; all gradients are forgotten after each."""
        start = timer()
        for _ in range(steps):
            self.step()
            self.x.grad = None
            self.layer.zero_grad(set_to_none=True)
        return float(timer() - start) / steps


def give_back_memory() -> None:
    """Let the allocator give memory back as soon as it is freed, so that the resident set is what lives (glibc)."""
    if platform.libc_ver()[0] == "glibc":
        for name, value in GIVE_BACK.items():
            ctypes.CDLL(None).mallopt(name, value)
        ctypes.CDLL(None).malloc_trim(0)


def growth(step: Callable[[], object], device: str = "cpu") -> int:
    """Bytes at the peak of a step beyond what was there before it: resident, or on a GPU given out by its allocator."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    forget_peak()
    before = status("VmRSS")
    step()
    return status("VmHWM") - before


def cost(entry: Entry, device: str, threads: int, budget: float) -> dict[str, Any]:
    """The entry with `seconds` of a step or `bytes` at its peak, or why it was `skipped`.

    It is measured in this process, in which nothing has been computed before. Bytes are the growth of the resident set
    (on a GPU: of what the allocator has given out) from when layer, gradients of its parameters and input exist, to the
    peak within a step. The first step is for warming up, and counts if it takes more than half the budget (seconds).
    """
    torch.set_num_threads(threads)
    found, reason = asdict(entry), too_large(entry, device)
    if reason is not None:
        return found | {"skipped": reason}
    if entry.kind == "memory":
        give_back_memory()
    elif entry.contestant in OURS:
        keep_freed_memory()  # as its users find it: a tenth of the time of a layer on a CPU
    try:
        runner = Runner(entry, device)
        runner.step(small=True)
        if entry.kind == "memory":
            return found | {"bytes": growth(runner.step, device)}
        first = runner.seconds()
        if first > budget / 2:
            return found | {"seconds": first}
        # The first step still sets kernels up; where it is short, the second one says how long a step takes.
        steps = math.ceil(ROUND_SECONDS / (first if first > 1 else runner.seconds()))
        return found | {"seconds": runner.seconds(steps)}
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        return found | {"skipped": "out of memory"}


def too_large(entry: Entry, device: str) -> str | None:
    """Why an entry that holds n x n matrices is not run, if so."""
    if entry.contestant != "plain":
        return None
    # fp32: scores and weights; in training weights and two gradients.
    needed = (12 if entry.mode == "train" else 8) * entry.heads * entry.tokens * entry.n
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else status("MemAvailable", "meminfo")
    return f"needs about {needed / 2**30:,.0f} GiB, {free / 2**30:,.0f} GiB are free" if needed > 0.9 * free else None
