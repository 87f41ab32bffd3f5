"""`fairseq-train` with a clock, in the process that calls it.

The time of an update is that between the ends of two: its batch, the update itself, and what is logged. fairseq's own
Linformer must be measured without this project, which is registered only for ours. torch.profiler may record the last
updates, and where their time went is in the result; see `sort` for the rules.
"""

import logging
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from fairseq_cli import train
from torch.profiler import profile, record_function

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
    """Train in this process, which needs to be one of its own: fairseq and the standard streams stay changed.

    Args:
        log: file for what is printed; the training runs in its folder.
        ours: register this project, as its --user-dir does.
        profiled: updates to profile, the last ones.
        k: projected length, which attention's scores are known by.

    Returns:
        seconds of each update but the first, which has no beginning; tokens and losses of every update; parameters,
        peak_bytes, and if some are profiled the seconds of an update by group.
    """
    with log.open("w", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    logging.basicConfig(format="%(name)s | %(message)s", level=logging.INFO, stream=sys.stdout, force=True)
    os.chdir(log.parent)
    torch.set_num_threads(threads)
    step: Callable[..., Any] = train.Trainer.train_step
    profiler = profile(record_shapes=True)
    ends: list[float] = []
    tokens: list[int] = []
    losses: list[float] = []
    found: dict[str, Any] = {"tokens": tokens, "losses": losses}

    @wraps(step)
    def train_step(trainer: Any, samples: Any, *more: Any, **named: Any) -> Any:
        logged = step(trainer, samples, *more, **named)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        tokens.append(sum(int(sample["ntokens"]) for sample in samples))
        losses.append(float(logged["loss"]))
        left = trainer.cfg.optimization.max_update - trainer.get_num_updates()
        if left == profiled > 0:
            mark_parts(trainer)
            profiler.start()
            ends[-1] = time.perf_counter()
        elif left == 0:
            found["seconds"] = [later - earlier for earlier, later in pairwise(ends)]
            found["parameters"] = sum(parameter.numel() for parameter in trainer.model.parameters())
            if profiled:
                profiler.stop()
                model = trainer.cfg.model
                head_dim = int(model.encoder_embed_dim) // int(model.encoder_attention_heads)
                groups = sort(profiler.events() or (), head_dim, k)
                groups["host"] = max(0.0, sum(found["seconds"][-profiled:]) - sum(groups.values()))
                found["anatomy"] = {group: groups[group] / profiled for group in GROUPS}
        return logged

    train.Trainer.train_step = train_step  # before anything else wraps it
    if ours:
        from linformer_fairseq.plugin import register

        register()
    sys.argv = ["fairseq-train", *arguments]
    train.cli_main()
    return found | {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def mark_parts(trainer: Any) -> None:
    """Marks around the operations of criterion and encoder, and around waiting for data."""
    encoder, iterator = trainer.get_model().encoder.sentence_encoder, train.iterators.CountingIterator
    for module, name in ((trainer.get_criterion(), "anatomy:criterion"), (encoder, "anatomy:encoder")):
        module.forward = marked(name)(module.forward)
    iterator.__next__ = marked("anatomy:data")(iterator.__next__)


@contextmanager
def marked(name: str) -> Iterator[None]:
    """Makes a new mark for each call that it decorates, as iterators call each other."""
    with record_function(name):
        yield


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
