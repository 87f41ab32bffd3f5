"""`fairseq-train` with a clock, in the process that calls it.

The time of an update is that between the ends of two: its batch, the update itself, and what is logged. fairseq's own
Linformer must be measured without this project, which is registered only for ours. torch.profiler may record the last
updates, and where their time went is in the result; see `sort` for the rules.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from fairseq_cli import train
from torch.profiler import ProfilerActivity, profile, record_function

# Marks around operations -> group, where it is the mark that decides.
MARKS = {
    "optimizer": "optimizer",
    "multiply-grads": "clipping",
    "clip-grads": "clipping",
    "backward": "element-wise",
    "anatomy:data": "data",
    "anatomy:criterion": "head and loss",
    "anatomy:encoder": "encoder",
}
GROUPS = ("matrix products", "attention core", "element-wise", "head and loss", "optimizer", "clipping", "data", "host")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "mkldnn_linear", "_addmm_activation")
CORE = ("softmax", "scaled_dot_product", "flash_attention")
CORE_FUNCTIONS = ("_Attend", "_AttendBackward")  # of layers/fused.py


def timed(arguments: list[str], log: Path, threads: int, ours: bool, profiled: int, k: int) -> dict[str, Any]:
    """The result of `Clock`, after a training in this process, which needs to be one of its own.

    Args:
        log: file for what is printed; the training runs in its folder.
        ours: register this project, as its --user-dir does.
        profiled: updates to profile.
        k: projected length, which attention's scores are known by.
    """
    with log.open("w", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    logging.basicConfig(format="%(name)s | %(message)s", level=logging.INFO, stream=sys.stdout, force=True)
    os.chdir(log.parent)
    torch.set_num_threads(threads)
    sys.argv = ["fairseq-train", *arguments]
    clock = Clock(profiled, k)
    clock.watch()
    if ours:
        from linformer_fairseq.plugin import register

        register()
    train.cli_main()
    sys.stdout.flush()
    return clock.result()


class Clock:
    """The ends of all updates, the tokens and the loss of each, and a profile of the last `profiled` ones."""

    def __init__(self, profiled: int, projected_length: int) -> None:
        self.profiled, self.projected_length = profiled, projected_length
        self.ends: list[float] = []
        self.tokens: list[int] = []
        self.losses: list[float] = []
        self.trainer: Any = None
        self.profile: Any = None

    def watch(self) -> None:
        """Stamp the end of every call of Trainer.train_step, before anything else wraps it."""
        step: Callable[..., Any] = train.Trainer.train_step

        @wraps(step)
        def train_step(trainer: Any, samples: Any, *arguments: Any, **named: Any) -> Any:
            logged = step(trainer, samples, *arguments, **named)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            self.tokens.append(sum(int(sample["ntokens"]) for sample in samples))
            self.losses.append(float(logged["loss"]))
            self.trainer = trainer
            remaining = trainer.cfg.optimization.max_update - trainer.get_num_updates()
            if self.profiled and remaining == self.profiled:
                self.start_profile()
            elif self.profile is not None and remaining == 0:
                self.profile.__exit__(None, None, None)
            return logged

        train.Trainer.train_step = train_step

    def start_profile(self) -> None:
        """Record from here on."""
        encoder, iterator = self.trainer.get_model().encoder.sentence_encoder, train.iterators.CountingIterator
        for module, name in ((self.trainer.get_criterion(), "anatomy:criterion"), (encoder, "anatomy:encoder")):
            module.forward = marked(module.forward, name)
        iterator.__next__ = marked(iterator.__next__, "anatomy:data")
        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
        self.profile = profile(activities=kinds, record_shapes=True)
        self.profile.__enter__()
        self.ends[-1] = time.perf_counter()

    def result(self) -> dict[str, Any]:
        """Seconds of each update but the first, which has no beginning; all else is of every update."""
        found = {
            "seconds": [later - earlier for earlier, later in zip(self.ends, self.ends[1:], strict=False)],
            "tokens": self.tokens,
            "losses": self.losses,
            "parameters": sum(parameter.numel() for parameter in self.trainer.model.parameters()),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if self.profile is not None:
            settings = self.trainer.cfg.model
            head_dim = int(settings.encoder_embed_dim) // int(settings.encoder_attention_heads)
            seconds = sort(self.profile.events(), head_dim, self.projected_length)
            whole = sum(found["seconds"][-self.profiled :])
            seconds["host"] = max(0.0, whole - sum(seconds.values()))
            found["anatomy"] = {group: seconds[group] / self.profiled for group in GROUPS}
        return found


def marked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function with a mark around its operations."""

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        with record_function(name):
            return function(*arguments, **named)

    return call


def sort(events: Iterable[Any], head_dim: int, projected_length: int) -> dict[str, float]:
    """Seconds by group: each operation's own time, without that of the operations that it calls.

    optimizer, clipping: what runs while fairseq's trainer says "optimizer", or "multiply-grads" and "clip-grads".
    head and loss: what the criterion computes outside of the encoder. attention core: in the encoder, softmax, products
    that have a head's dimension, fused attention, all that is computed on scores (B x H x N x K), and all within our
    own function for it. matrix products: the others in the encoder. element-wise: all else in the encoder, and sums of
    gradients. data: waiting for the next batch. An operation of the backward pass belongs to where its forward
    operation was; autograd numbers both alike. The rest of an update is the host's: Python, logs, the profiler.
    """
    seconds: dict[str, float] = {}
    place: dict[int, str] = {}  # where the forward operation with this number was

    def visit(event: Any, phase: str | None) -> None:
        phase = MARKS.get(event.name, phase)
        if phase is not None and "evaluate_function" in event.name:
            phase = place.get(event.sequence_nr, phase)
        elif phase in ("encoder", "head and loss") and event.sequence_nr >= 0:
            place.setdefault(event.sequence_nr, phase)
        if phase == "encoder" and event.name in CORE_FUNCTIONS:
            phase = "attention core"
        if phase is not None and (event.name not in MARKS or phase == "data"):  # waiting is no operation
            group = _encoder_group(event, head_dim, projected_length) if phase == "encoder" else phase
            own = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
            seconds[group] += own / 1e6
        for child in event.cpu_children:
            visit(child, phase)

    roots = [event for event in events if event.cpu_parent is None]
    for _ in range(2):  # the second time all places are known
        seconds = defaultdict(float)
        for event in roots:
            visit(event, None)
    return seconds


def _encoder_group(event: Any, head_dim: int, projected_length: int) -> str:
    name = event.name.removeprefix("aten::").removesuffix("_")
    shapes = [shape for shape in event.input_shapes if shape]
    if name in PRODUCTS:
        core = name in ("bmm", "baddbmm") and any(head_dim in shape[1:] for shape in shapes)
        return "attention core" if core else "matrix products"
    on_scores = bool(shapes) and len(shapes[0]) >= 3 and shapes[0][-1] == projected_length
    return "attention core" if on_scores or any(word in name for word in CORE) else "element-wise"
