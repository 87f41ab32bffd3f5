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
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import timer

from linformer_fairseq.measuring.layers import CONTESTANTS, Sizes, missing
from linformer_fairseq.measuring.study import forget_peak, status
from linformer_fairseq.training.memory import keep_freed_memory

ROUND_SECONDS = 0.1  # the least that is timed at once
# Options of glibc's mallopt (malloc.h) -> values: as glibc has them in a process that computes on large tensors, whose
# thresholds have grown to their limits, and so that the resident set is what lives.
AS_USUAL = {-4: 65536, -3: 2**25, -1: 2**26}
GIVE_BACK = {-4: 65536, -3: 2**16, -1: 0}
Result = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One contestant at one size, with tokens/n inputs of n tokens in a step."""

    contestant: str
    sizes: Sizes
    tokens: int

    def is_a(self, kind: str) -> bool:
        """Whether its contestant is of a kind, see `Contestant.kinds`."""
        return kind in CONTESTANTS[self.contestant].kinds.split()


@dataclass(frozen=True)
class How:
    """What the entries of a cell have in common: mode train (forward and backward, with dropout) or forward."""

    mode: str
    dtype: str
    device: str
    threads: int
    malloc: str = "each"
    rounds: int = 1
    budget: float = 60.0


class Runner:
    """One entry, ready to take steps.

    Args:
        pair: values of input and of the gradient of the output, at least as many as are needed.
    """

    def __init__(self, entry: Entry, how: How, pair: tuple[Tensor, Tensor]) -> None:
        s, batch = entry.sizes, entry.tokens // entry.sizes.n
        self.entry, self.how, self.train = entry, how, how.mode == "train"
        self.layer = CONTESTANTS[entry.contestant].build(s).to(how.device).train(self.train)
        shape = (s.n, batch, s.embed_dim) if entry.is_a("time-first") else (batch, s.n, s.embed_dim)
        self.x, self.grad = (values[: math.prod(shape)].view(shape).detach() for values in pair)
        self.x.requires_grad_(self.train)
        self.steps, self.spent = 1, 0.0

    def step(self) -> None:
        """Forward, and in training backward from a random gradient of the output."""
        self._step(self.x, self.grad)

    def small_step(self) -> None:
        """A step with one input of k tokens: everything is loaded then, and the parameters have gradients."""
        one, few = slice(1), slice(self.entry.sizes.k)
        part = (few, one) if self.entry.is_a("time-first") else (one, few)
        self._step(self.x.detach()[part].clone().requires_grad_(self.train), self.grad[part])

    def _step(self, x: Tensor, grad: Tensor) -> None:
        autocast = torch.autocast(self.how.device, torch.bfloat16) if self.how.dtype == "bf16" else nullcontext()
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

    def warm_up(self) -> float | None:
        """The first step; its seconds if another one would be too expensive, so that it has to count as a round."""
        self.small_step()
        first = self.seconds(1)
        # The first step still sets kernels up; where it is short, the second one says how long a step takes.
        self.steps = math.ceil(ROUND_SECONDS / (first if first > 1 else self.seconds(1)))
        self.spent = first
        return first if first > self.how.budget / 2 else None


def measure_times(entries: dict[str, Entry], how: How) -> dict[str, Result]:
    """Results by label: `seconds` of a step in each round, None from when the entry has spent its budget."""
    torch.set_num_threads(how.threads)
    results = {label: about(entry) | refusal(entry, how) for label, entry in entries.items()}
    values = _values(max(entry.tokens * entry.sizes.embed_dim for entry in entries.values()), how.device)
    field: dict[str, Runner] = {}
    for label, entry in entries.items():
        if not results[label].keys() & {"missing", "skipped"}:
            with out_of_memory(results[label]):
                set_malloc(entry, how)
                runner = Runner(entry, how, values)
                results[label]["seconds"] = [runner.warm_up()] + [None] * (how.rounds - 1)
                field[label] = runner
    for number in range(how.rounds):
        labels = list(field)
        turn = number % max(1, len(labels))
        for label in labels[turn:] + labels[:turn]:
            runner, seconds = field[label], results[label]["seconds"]
            if seconds[number] is None and runner.spent < how.budget:
                gc.collect()
                set_malloc(runner.entry, how)
                if runner.entry.is_a("ours") and how.malloc == "each" and how.device == "cpu":
                    # Others have emptied the heap, which a training finds as its last step has left it.
                    runner.seconds(1)
                seconds[number] = runner.seconds(runner.steps)
    return results


def measure_memory(entries: dict[str, Entry], how: How) -> dict[str, Result]:
    """Results of the one entry: `bytes`, the peak beyond what was there before the step."""
    torch.set_num_threads(how.threads)
    ((label, entry),) = entries.items()
    result = about(entry) | refusal(entry, how)
    if how.device == "cpu" and not Path("/proc/self/clear_refs").exists():
        result["skipped"] = "the peak memory of a process is read from /proc, which only Linux has"
    if not result.keys() & {"missing", "skipped"}:
        with out_of_memory(result):
            mallopt(GIVE_BACK)
            runner = Runner(entry, how, _values(entry.tokens * entry.sizes.embed_dim, how.device))
            runner.small_step()
            gc.collect()
            if how.device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                runner.step()
                torch.cuda.synchronize()
                result["bytes"] = torch.cuda.max_memory_allocated() - before
            else:
                forget_peak()
                before = status("VmRSS")
                runner.step()
                result["bytes"] = status("VmHWM") - before
    return {label: result}


def set_malloc(entry: Entry, how: How) -> None:
    """Before a contestant's turn: what malloc does with freed memory is a tenth of the time of a layer on a CPU."""
    if entry.is_a("ours") or how.malloc == "kept":
        keep_freed_memory()
    else:
        mallopt(AS_USUAL)


def mallopt(values: dict[int, int]) -> None:
    """Set glibc's malloc, and give back what is free; nothing where there is no glibc."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for name, value in values.items():
            library.mallopt(name, value)
        library.malloc_trim(0)


def _values(size: int, device: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(size, device=device), torch.randn(size, device=device)


def about(entry: Entry) -> Result:
    return {"contestant": entry.contestant, "sizes": asdict(entry.sizes), "tokens": entry.tokens}


def refusal(entry: Entry, how: How) -> dict[str, str]:
    """Why an entry is not run: `missing` or `skipped` with the reason; nothing if it is."""
    if (reason := missing(entry.contestant)) is not None:
        return {"missing": reason}
    needed, free = nxn_bytes(entry, how), free_bytes(how.device)
    if needed > 0.9 * free:
        return {"skipped": f"needs about {needed / 2**30:,.0f} GiB, {free / 2**30:,.0f} GiB are free"}
    return {}


def nxn_bytes(entry: Entry, how: How) -> float:
    """About how much the n x n matrices of an entry take at the peak; 0 for who holds none."""
    s = entry.sizes
    dropped = how.mode == "train" and s.attention_dropout > 0
    # PyTorch's fused kernel for CPUs knows no dropout, so that SDPA falls back on whole matrices.
    if not (entry.is_a("nxn") or (entry.is_a("sdpa") and dropped and how.device == "cpu")):
        return 0.0
    # fp32: scores and weights; in training weights and two gradients; with dropout its mask and its result too.
    each = 8.0 if how.mode == "forward" else 17.0 if dropped else 12.0
    return each * s.heads * entry.tokens * s.n


def free_bytes(device: str) -> int:
    """Memory that is still available."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    info = Path("/proc/meminfo")
    if not info.exists():
        return 1 << 62
    return next(int(line.split()[1]) << 10 for line in info.read_text().splitlines() if line.startswith("MemAvailable"))


@contextmanager
def out_of_memory(result: Result) -> Iterator[None]:
    """Note in a result that memory did not suffice."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        result["skipped"] = "out of memory"
