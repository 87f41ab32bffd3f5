"""Time or memory of one of the layers in layers.py, in a process of its own.

Memory is the growth of the resident set (on a GPU: of what the allocator has given out) from the moment when layer,
gradients of its parameters and input exist, to the peak within one step.
"""

from __future__ import annotations

import ctypes
import gc
import math
import platform
from contextlib import nullcontext

import torch
from torch.utils.benchmark import timer

from linformer_fairseq.measuring.layers import CONTESTANTS, Entry
from linformer_fairseq.measuring.study import forget_peak, status
from linformer_fairseq.training.memory import keep_freed_memory

ROUND_SECONDS = 0.5  # the least that is timed at once
# Options of glibc's mallopt (malloc.h) -> values, so that the resident set is what lives.
GIVE_BACK = {-4: 65536, -3: 2**16, -1: 0}


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

        A small step has one input of k tokens: everything is loaded then, and the parameters have gradients.
        """
        x, grad = self.x, self.grad
        if small:
            one, few = slice(1), slice(max(1, self.entry.k))
            part = (few, one) if self.entry.contestant == "fairseq" else (one, few)
            x, grad = x.detach()[part].clone().requires_grad_(self.train), grad[part]
        autocast = torch.autocast(self.device, torch.bfloat16) if self.entry.dtype == "bf16" else nullcontext()
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
        took: float = timer() - start
        return took / steps

    def growth(self) -> int:
        """Bytes at the peak of a step beyond what was there before it."""
        self.step(small=True)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step()
            return torch.cuda.max_memory_allocated() - before
        forget_peak()
        before = status("VmRSS")
        self.step()
        return status("VmHWM") - before


def cost(entry: Entry, device: str, threads: int, budget: float) -> dict[str, float | str]:
    """`seconds` of a step or, of the kind memory, `bytes` at its peak; or why the entry was `skipped`.

    Of a step that takes more than half the budget (seconds) the first one counts. Otherwise it is for warming up.
    """
    torch.set_num_threads(threads)
    if reason := too_large(entry, device):
        return {"skipped": reason}
    if entry.kind == "memory":
        give_back()
    elif entry.contestant == "ours":
        keep_freed_memory()  # as its users find it: a tenth of the time of a layer on a CPU
    try:
        runner = Runner(entry, device)
        if entry.kind == "memory":
            return {"bytes": runner.growth()}
        runner.step(small=True)
        first = runner.seconds()
        if first > budget / 2:
            return {"seconds": first}
        # The first step still sets kernels up; where it is short, the second one says how long a step takes.
        return {"seconds": runner.seconds(math.ceil(ROUND_SECONDS / (first if first > 1 else runner.seconds())))}
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        return {"skipped": "out of memory"}


def give_back() -> None:
    """Let glibc's malloc give back at once what is free; nothing where there is no glibc."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for name, value in GIVE_BACK.items():
            library.mallopt(name, value)


def too_large(entry: Entry, device: str) -> str | None:
    """Why an entry that holds n x n matrices is not run, if so."""
    if entry.contestant != "plain":
        return None
    # fp32: scores and weights; in training weights and two gradients.
    needed = (12 if entry.mode == "train" else 8) * entry.heads * entry.tokens * entry.n
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else status("MemAvailable", "meminfo")
    return f"needs about {needed / 2**30:,.0f} GiB, {free / 2**30:,.0f} GiB are free" if needed > 0.9 * free else None
