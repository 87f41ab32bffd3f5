"""Where the time of an update goes, by torch.profiler in the trainer: the rules that sort operations into groups.

Each operation's own time, without that of the operations that it calls, belongs to one group:

    optimizer, clipping     what runs while fairseq's trainer says "optimizer" (its step), or "multiply-grads" and
                            "clip-grads"
    head and loss           what the criterion computes outside of the encoder, and its backward pass
    attention core          in the encoder: softmax and products that have a head's dimension, fused attention, all
                            that is computed on scores (H x N x K), and all within our own function for it
    matrix products         the others in the encoder: of W_q, W_k, W_v, W_o, E, F and the feed-forward layers
    element-wise            all else in the encoder: norms, activations, dropout, residuals, copies, embeddings; and the
                            sums of gradients
    data                    waiting for the next batch
    host                    the rest of the time of an update: Python, logs, and the profiler itself

An operation of the backward pass belongs to where its forward operation was; autograd numbers both alike.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from fairseq.data import iterators
from torch.profiler import ProfilerActivity, profile, record_function

GROUPS = (
    "matrix products",
    "attention core",
    "element-wise",
    "head and loss",
    "optimizer",
    "clipping",
    "data",
    "host",
)
_PHASES = {
    "optimizer": "optimizer",
    "multiply-grads": "clipping",
    "clip-grads": "clipping",
    "anatomy:data": "data",
    "anatomy:criterion": "head and loss",
    "anatomy:encoder": "encoder",
    "backward": "backward",
}
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "mkldnn_linear", "_addmm_activation")
_CORE = ("softmax", "scaled_dot_product", "flash_attention")
_CORE_FUNCTIONS = ("_Attend", "_AttendBackward")  # of layers/fused.py


class Recorder:
    """Records the last updates of a training, from the end of the one before.

    Args:
        updates: how many of the last ones.
        projected_length: K.
    """

    def __init__(self, updates: int, projected_length: int) -> None:
        self.updates = updates
        self.projected_length = projected_length
        self._profile: Any = None
        self._start = self._end = 0.0
        self._head_dim = 0

    def after_update(self, trainer: Any) -> None:
        """Start, and stop."""
        remaining = trainer.cfg.optimization.max_update - trainer.get_num_updates()
        if remaining == self.updates:
            self._begin(trainer)
        elif remaining == 0:
            self._end = time.perf_counter()
            self._profile.__exit__(None, None, None)

    def _begin(self, trainer: Any) -> None:
        model = trainer.get_model()
        settings = trainer.cfg.model
        self._head_dim = int(settings.encoder_embed_dim) // int(settings.encoder_attention_heads)
        _mark(trainer.get_criterion(), "anatomy:criterion")
        _mark(model.encoder.sentence_encoder, "anatomy:encoder")
        _mark_data()
        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
        self._profile = profile(activities=kinds, record_shapes=True)
        self._profile.__enter__()
        self._start = time.perf_counter()

    def result(self) -> dict[str, float]:
        """Seconds of an update by group."""
        seconds = sort(self._profile.events(), self._head_dim, self.projected_length)
        seconds["host"] = max(0.0, self._end - self._start - sum(seconds.values()))
        return {group: seconds[group] / self.updates for group in GROUPS}


def sort(events: Sequence[Any], head_dim: int, projected_length: int) -> dict[str, float]:
    """Seconds by group, of all operations of the profiler; what belongs to none is left to the host."""
    seconds: dict[str, float] = defaultdict(float)
    # Where the forward operation with this number was.
    place: dict[int, str] = {}
    for event in events:
        if event.sequence_nr >= 0 and "evaluate_function" not in event.name:
            phase = _phase(event)
            if phase in ("encoder", "head and loss"):
                place.setdefault(event.sequence_nr, phase)
    for event in events:
        if event.name in _PHASES:
            continue
        phase = _phase(event)
        if phase == "backward":
            phase = _backward_place(event, place)
        if phase == "encoder":
            phase = _encoder_group(event, head_dim, projected_length)
        if phase is not None:
            seconds[phase] += _self_time(event) / 1e6
    for event in events:
        if event.name == "anatomy:data":  # waiting is no operation
            seconds["data"] += _self_time(event) / 1e6
    return seconds


def _self_time(event: Any) -> float:
    return float(event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total)


def _phase(event: Any) -> str | None:
    """Of the innermost mark around an operation."""
    while event is not None:
        if event.name in _PHASES:
            return _PHASES[event.name]
        event = event.cpu_parent
    return None


def _backward_place(event: Any, place: dict[int, str]) -> str:
    while event is not None and event.name not in _PHASES:
        if "evaluate_function" in event.name:
            return place.get(event.sequence_nr, "element-wise")
        event = event.cpu_parent
    return "element-wise"  # the engine's own: sums of gradients


def _encoder_group(event: Any, head_dim: int, projected_length: int) -> str:
    if _within_core(event):
        return "attention core"
    name = event.name.removeprefix("aten::").removesuffix("_")
    shapes = [shape for shape in event.input_shapes if shape]
    if name in _PRODUCTS:
        core = name in ("bmm", "baddbmm") and any(head_dim in shape[1:] for shape in shapes)
        return "attention core" if core else "matrix products"
    if any(word in name for word in _CORE):
        return "attention core"
    on_scores = bool(shapes) and len(shapes[0]) >= 3 and shapes[0][-1] == projected_length  # B x H x N x K
    return "attention core" if on_scores else "element-wise"


def _within_core(event: Any) -> bool:
    while event is not None and event.name not in _PHASES:
        if event.name in _CORE_FUNCTIONS:
            return True
        event = event.cpu_parent
    return False


def _mark(module: torch.nn.Module, name: str) -> None:
    forward = module.forward

    def marked(*arguments: Any, **named: Any) -> Any:
        with record_function(name):
            return forward(*arguments, **named)

    module.forward = marked


def _mark_data() -> None:
    following = iterators.CountingIterator.__next__

    def marked(self: Any) -> Any:
        with record_function("anatomy:data"):
            return following(self)

    iterators.CountingIterator.__next__ = marked
