"""Time and memory of the layers in layers.py, in the process of one cell.

Time: the contestants take turns, a round after the other, each round beginning with another one. Memory: the growth
of the resident set (on a GPU: of what the allocator has given out) from the moment when layer, gradients of its
parameters and input exist, to the peak within one step.
"""

from __future__ import annotations

import ctypes
import gc
import math
import platform
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import timer

from linformer_fairseq.measuring.layers import CONTESTANTS, Entry
from linformer_fairseq.measuring.study import forget_peak, status
from linformer_fairseq.training.memory import keep_freed_memory

ROUND_SECONDS = 0.1  # the least that is timed at once
# Options of glibc's mallopt (malloc.h) -> values: as glibc has them in a process that computes on large tensors, whose
# thresholds have grown to their limits, and so that the resident set is what lives.
AS_USUAL = {-4: 65536, -3: 2**25, -1: 2**26}
GIVE_BACK = {-4: 65536, -3: 2**16, -1: 0}


class Runner:
    """One entry, ready to take steps.

    Args:
        pair: values of input and of the gradient of the output, at least as many as are needed.
    """

    def __init__(self, entry: Entry, device: str, pair: tuple[Tensor, Tensor]) -> None:
        self.entry, self.device, self.train = entry, device, entry.mode == "train"
        self.layer = CONTESTANTS[entry.contestant][1](entry).to(device).train(self.train)
        n, batch = entry.n, entry.tokens // entry.n
        shape = (*((n, batch) if entry.contestant == "fairseq" else (batch, n)), entry.embed_dim)
        self.x, self.grad = (values[: math.prod(shape)].view(shape).detach() for values in pair)
        self.x.requires_grad_(self.train)
        self.steps, self.spent = 1, 0.0

    def step(self) -> None:
        """Forward, and in training backward from a random gradient of the output."""
        self._step(self.x, self.grad)

    def small_step(self) -> None:
        """A step with one input of k tokens: everything is loaded then, and the parameters have gradients."""
        one, few = slice(1), slice(self.entry.k)
        part = (few, one) if self.entry.contestant == "fairseq" else (one, few)
        self._step(self.x.detach()[part].clone().requires_grad_(self.train), self.grad[part])

    def _step(self, x: Tensor, grad: Tensor) -> None:
        autocast = torch.autocast(self.device, torch.bfloat16) if self.entry.dtype == "bf16" else nullcontext()
        with torch.set_grad_enabled(self.train), autocast:
            out = self.layer(x)
        if self.train:
            out.backward(grad.to(out.dtype))

    def seconds(self, steps: int) -> float:
        """Mean seconds of a step; all gradients are forgotten after each."""
        start = timer()
        for _ in range(steps):
            self.step()
            self.x.grad = None
            self.layer.zero_grad(set_to_none=True)
        took: float = timer() - start
        self.spent += took
        return took / steps

    def warm_up(self) -> float:
        """Seconds of the first step."""
        self.set_malloc()
        self.small_step()
        first = self.seconds(1)
        # The first step still sets kernels up; where it is short, the second one says how long a step takes.
        self.steps = math.ceil(ROUND_SECONDS / (first if first > 1 else self.seconds(1)))
        self.spent = first
        return first

    def round(self) -> float:
        """Mean seconds of the steps of a round."""
        gc.collect()
        self.set_malloc()
        if self.entry.contestant == "ours" and self.device == "cpu":
            self.seconds(1)  # others have emptied the heap, which a training finds as its last step has left it
        return self.seconds(self.steps)

    def set_malloc(self) -> None:
        """As its users find it: what malloc does with freed memory is a tenth of the time of a layer on a CPU."""
        if self.entry.contestant == "ours":
            keep_freed_memory()
        else:
            mallopt(AS_USUAL)


def measure(kind: str, entries: dict[str, Entry], options: Namespace) -> dict[str, dict[str, Any]]:
    """Results by label: `seconds` of a step in each round, None from when the entry has spent its budget; or, of the
    kind memory, `bytes`; or why it was `skipped`. The options are device, threads, rounds and budget (seconds).
    """
    torch.set_num_threads(options.threads)
    results: dict[str, dict[str, Any]] = {label: asdict(entry) for label, entry in entries.items()}
    torch.manual_seed(0)
    size = max(entry.tokens * entry.embed_dim for entry in entries.values())
    pair = torch.randn(size, device=options.device), torch.randn(size, device=options.device)
    field: dict[str, Runner] = {}
    for label, entry in entries.items():
        if reason := too_large(entry, options.device):
            results[label]["skipped"] = reason
            continue
        try:
            if kind == "memory":
                results[label]["bytes"] = growth(entry, options.device, pair)
                continue
            runner = Runner(entry, options.device, pair)
            first = runner.warm_up()
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            results[label]["skipped"] = "out of memory"
        else:
            # Where another step would be too expensive, the first one has to count as a round.
            counted = first if first > options.budget / 2 else None
            results[label]["seconds"] = [counted] + [None] * (options.rounds - 1)
            field[label] = runner
    for number in range(options.rounds):
        turn = number % max(1, len(field))
        for label in [*field][turn:] + [*field][:turn]:
            seconds = results[label]["seconds"]
            if seconds[number] is None and field[label].spent < options.budget:
                seconds[number] = field[label].round()
    return results


def growth(entry: Entry, device: str, pair: tuple[Tensor, Tensor]) -> int:
    """Bytes at the peak of a step beyond what was there before it."""
    mallopt(GIVE_BACK)
    runner = Runner(entry, device, pair)
    runner.small_step()
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        runner.step()
        return torch.cuda.max_memory_allocated() - before
    forget_peak()
    before = status("VmRSS")
    runner.step()
    return status("VmHWM") - before


def mallopt(values: dict[int, int]) -> None:
    """Set glibc's malloc, and give back what is free; nothing where there is no glibc."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for name, value in values.items():
            library.mallopt(name, value)
        library.malloc_trim(0)


def too_large(entry: Entry, device: str) -> str | None:
    """Why an entry that holds n x n matrices is not run, if so."""
    if entry.contestant != "plain":
        return None
    # fp32: scores and weights; in training weights and two gradients.
    needed = (12 if entry.mode == "train" else 8) * entry.heads * entry.tokens * entry.n
    free = free_bytes(device)
    return f"needs about {needed / 2**30:,.0f} GiB, {free / 2**30:,.0f} GiB are free" if needed > 0.9 * free else None


def free_bytes(device: str) -> int:
    """Memory that is still available."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else status("MemAvailable", "meminfo")
