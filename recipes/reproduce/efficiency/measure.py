"""Time and memory of layers, in the process of one cell.

Time: the contestants take turns, a round after the other, each round beginning with another one. Memory: the growth
of the resident set (on a GPU: of what the allocator has given out) from the moment when layer, gradients of its
parameters and input exist, to the peak within one step.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recipes.reproduce.efficiency import allocator
from recipes.reproduce.efficiency.cells import Cell, Entry, step_work
from recipes.reproduce.efficiency.contestants import CONTESTANTS, missing

ROUND_SECONDS = 0.1  # the least that is timed at once
REFUSALS = {"missing", "skipped"}


class Runner:
    """One entry, ready to take steps.

    Args:
        entry: what to build.
        cell: its dtype and mode.
        device: cpu or cuda.
        pair: values of input and of the gradient of the output, at least as many as are needed.
    """

    def __init__(self, entry: Entry, cell: Cell, device: str, pair: tuple[Tensor, Tensor]) -> None:
        s, about = entry.sizes, CONTESTANTS[entry.contestant]
        self.entry, self.device, self.train = entry, device, cell.mode == "train"
        self.layer: nn.Module = about.build(s).to(device).train(self.train)
        shape = (s.n, entry.batch, s.embed_dim) if about.time_first else (entry.batch, s.n, s.embed_dim)
        self.x, self.grad = (values[: math.prod(shape)].view(shape).detach() for values in pair)
        self.x.requires_grad_(self.train)
        self.dtype = torch.bfloat16 if cell.dtype == "bf16" else None

    def step(self, clear: bool = True) -> None:
        """Forward, and in training backward from a random gradient of the output; then forgets all gradients."""
        self._step(self.x, self.grad)
        if clear:
            self.x.grad = None
            self.layer.zero_grad(set_to_none=True)

    def small_step(self) -> None:
        """A step with one input of k tokens: everything is loaded then, and the parameters have gradients."""
        one, few = slice(1), slice(self.entry.sizes.k)
        part = (few, one) if CONTESTANTS[self.entry.contestant].time_first else (one, few)
        self._step(self.x.detach()[part].clone().requires_grad_(self.train), self.grad[part])

    def _step(self, x: Tensor, grad: Tensor) -> None:
        autocast = torch.autocast(self.device, self.dtype) if self.dtype else nullcontext()
        with torch.set_grad_enabled(self.train), autocast:
            out = self.layer(x)
        if self.train:
            out.backward(grad.to(out.dtype))

    def seconds(self, steps: int) -> float:
        """Mean seconds of a step."""
        if self.device == "cuda":
            start, end = (torch.Event(self.device, enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(steps):
                self.step()
            end.record()
            torch.cuda.synchronize()
            return float(start.elapsed_time(end)) / 1000 / steps
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        return (time.perf_counter() - begun) / steps


@dataclass
class Timed:
    """A runner in the rounds of a cell.

    Attributes:
        steps: of a round.
        spent: seconds so far.
        seconds: of a step, by round; None where it took no part.
    """

    runner: Runner
    steps: int
    spent: float
    seconds: list[float | None]


def warmed_up(runner: Runner, rounds: int, budget: float) -> Timed:
    """A runner after its first step, which counts as one of its rounds if another one would be too dear."""
    runner.small_step()
    first = runner.seconds(1)
    # The first step still sets kernels up; where it is short, the second one says how long a step takes.
    usual = first if first > 1 else runner.seconds(1)
    seconds: list[float | None] = [None] * rounds
    if first > budget / 2:
        seconds[0] = first
    return Timed(runner, math.ceil(ROUND_SECONDS / usual), first, seconds)


def measure_times(
    cell: Cell, device: str, threads: int, rounds: int, budget: float, malloc: str, told: Callable[[float], None]
) -> dict[str, Any]:
    """Results of all entries by label: `seconds` of a step in each round, None where the budget was spent.

    Args:
        cell: of kind time or linear.
        rounds: after one for warming up.
        budget: seconds after which an entry takes part in no further round. One whose single step takes more than
            half of it has no warm-up.
        malloc: each (as each contestant finds it) or kept (for all as this project's trainings have it).
        told: is called with the work of each step that is done.
    """
    torch.set_num_threads(threads)
    results = {entry.label: _about(entry) | refusal(entry, cell, device) for entry in cell.entries}
    values = _values(max(e.tokens * e.sizes.embed_dim for e in cell.entries), device)
    field: list[Timed] = []
    for entry in cell.entries:
        result = results[entry.label]
        if not result.keys() & REFUSALS:
            with _out_of_memory(result):
                set_malloc(malloc, CONTESTANTS[entry.contestant].ours)
                field.append(warmed_up(Runner(entry, cell, device, values), rounds, budget))
                result["seconds"] = field[-1].seconds
        told(step_work(entry, cell.mode, cell.dtype))
    for number in range(rounds):
        turn = number % max(1, len(field))
        for timed in field[turn:] + field[:turn]:
            if timed.seconds[number] is None and timed.spent < budget:
                gc.collect()
                ours = CONTESTANTS[timed.runner.entry.contestant].ours
                set_malloc(malloc, ours)
                if ours and malloc == "each" and device == "cpu":
                    # Others have emptied the heap, which a training finds as its last step has left it.
                    timed.spent += timed.runner.seconds(1)
                seconds = timed.runner.seconds(timed.steps)
                timed.seconds[number] = seconds
                timed.spent += seconds * timed.steps
                told(step_work(timed.runner.entry, cell.mode, cell.dtype))
    return results


def set_malloc(malloc: str, ours: bool) -> None:
    """Before a contestant's turn."""
    if ours or malloc == "kept":
        allocator.keep_freed()
    else:
        allocator.as_usual()


def measure_memory(cell: Cell, device: str, threads: int, told: Callable[[float], None]) -> dict[str, Any]:
    """Result of the one entry: `bytes`, the peak beyond what was there before the step."""
    torch.set_num_threads(threads)
    (entry,) = cell.entries
    result = _about(entry) | refusal(entry, cell, device)
    if not result.keys() & REFUSALS:
        with _out_of_memory(result):
            result["bytes"] = (_cuda_growth if device == "cuda" else _resident_growth)(entry, cell)
    told(step_work(entry, cell.mode, cell.dtype))
    return {entry.label: result}


def _cuda_growth(entry: Entry, cell: Cell) -> int:
    runner = Runner(entry, cell, "cuda", _values(entry.tokens * entry.sizes.embed_dim, "cuda"))
    runner.small_step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    runner.step(clear=False)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _resident_growth(entry: Entry, cell: Cell) -> int:
    allocator.give_back_at_once()
    runner = Runner(entry, cell, "cpu", _values(entry.tokens * entry.sizes.embed_dim, "cpu"))
    runner.small_step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # from here on, the peak is that of the step
    before = _status("VmRSS")
    runner.step(clear=False)
    return _status("VmHWM") - before


def _values(size: int, device: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(size, device=device), torch.randn(size, device=device)


def _about(entry: Entry) -> dict[str, Any]:
    return {"contestant": entry.contestant, "sizes": asdict(entry.sizes), "tokens": entry.tokens}


def refusal(entry: Entry, cell: Cell, device: str) -> dict[str, str]:
    """Why an entry is not run: `missing` or `skipped` with the reason; nothing if it is."""
    if (reason := missing(entry.contestant)) is not None:
        return {"missing": reason}
    needed, free = nxn_bytes(entry, cell.mode, device), free_bytes(device)
    if needed > 0.9 * free:
        return {"skipped": f"needs about {needed / 2**30:,.0f} GiB, {free / 2**30:,.0f} GiB are free"}
    if cell.kind == "memory" and device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return {"skipped": "the peak memory of a process is read from /proc, which only Linux has"}
    return {}


def nxn_bytes(entry: Entry, mode: str, device: str) -> float:
    """About how much the n x n matrices of an entry take at the peak; 0 for who holds none."""
    about, s = CONTESTANTS[entry.contestant], entry.sizes
    dropped = mode == "train" and s.attention_dropout > 0
    # PyTorch's fused kernel for CPUs knows no dropout, so that SDPA falls back on whole matrices.
    if not (about.nxn or (about.sdpa and dropped and device == "cpu")):
        return 0.0
    # fp32: scores and weights; in training weights and two gradients; with dropout its mask and its result too.
    each = 8.0 if mode == "forward" else 17.0 if dropped else 12.0
    return each * s.heads * entry.batch * s.n**2


def free_bytes(device: str) -> int:
    """Memory that can still be had."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    info = Path("/proc/meminfo")
    if not info.exists():
        return 1 << 62
    return next(int(line.split()[1]) << 10 for line in info.read_text().splitlines() if line.startswith("MemAvailable"))


@contextmanager
def _out_of_memory(result: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        result["skipped"] = "out of memory"


def _status(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))
