"""Where fairseq's training is looked at: each patch is one function with its reason.

Recording (`metrics_recorder.py`) and stopping (`divergence_stop.py`) know nothing of each other; here both are told.
"""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any
from weakref import ref

from fairseq import checkpoint_utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import progress_bar
from fairseq.trainer import Trainer
from omegaconf import DictConfig

from linformer_fairseq.compat.precision import on_cpu
from linformer_fairseq.training.divergence_stop import Watch, shorten_nan_detector
from linformer_fairseq.training.hardware import Precision
from linformer_fairseq.training.metrics_recorder import Recorder
from linformer_fairseq.training.run_directory import record_start, run_folder
from linformer_fairseq.training.run_directory_logs import keep_log


class Observers:
    """What looks at one trainer: a watch on every rank, a recorder on rank 0 of a training that saves."""

    def __init__(self, trainer: Trainer) -> None:
        folder = run_folder(trainer.cfg)
        self.recorder: Recorder | None = None
        if folder is not None and distributed_utils.is_master(trainer.cfg.distributed_training):
            start = record_start(folder, trainer.cfg, int(trainer.get_num_updates()))
            self.recorder = Recorder(trainer, getattr(trainer, _PRECISION, "fp32"), folder.parent, start)
        self.watch = Watch(trainer, folder)


# Attributes that a trainer gets: its observers refer to it, and must end with it.
_OBSERVERS, _PRECISION = "linformer_fairseq_observers", "linformer_fairseq_precision"
_latest: list[ref[Trainer]] = []


def observe_trainings() -> None:
    """Apply the patches below."""
    note_precision()
    observe_starts()
    observe_updates()
    observe_logs()
    observe_saving()
    shorten_nan_detector()


def note_precision() -> None:
    """Note what a training computes in, before the repair of --bf16 on CPUs turns that flag off."""
    fairseq_init = Trainer.__init__

    @functools.wraps(fairseq_init)
    def init(self: Trainer, cfg: Any, *arguments: Any, **named: Any) -> None:
        setattr(self, _PRECISION, _precision(cfg))
        fairseq_init(self, cfg, *arguments, **named)

    Trainer.__init__ = init


def observe_starts() -> None:
    """Begin when the checkpoint is loaded: the model's settings are complete, and there is something to train."""
    load = checkpoint_utils.load_checkpoint

    @functools.wraps(load)
    def load_checkpoint(cfg: DictConfig, trainer: Trainer, *arguments: Any, **named: Any) -> Any:
        loaded = load(cfg, trainer, *arguments, **named)
        keep_log(trainer.cfg)  # again, where Hydra has set up logging anew
        setattr(trainer, _OBSERVERS, Observers(trainer))
        _latest[:] = [ref(trainer)]
        return loaded

    checkpoint_utils.load_checkpoint = load_checkpoint


def observe_updates() -> None:
    """Tell the observers what an update is made of, and let none go on from a gradient that is not a number.

    fairseq's own end is a traceback that names no example, after a copy of all parameters to `crash.pt`.
    """
    fairseq_step = Trainer.train_step

    @functools.wraps(fairseq_step)
    def train_step(self: Trainer, samples: Any, *arguments: Any, **named: Any) -> Any:
        observers: Observers | None = getattr(self, _OBSERVERS, None)
        if observers is None:
            return fairseq_step(self, samples, *arguments, **named)
        observers.watch.before_update(samples)
        if observers.recorder is not None:
            observers.recorder.before_update()
        try:
            logged = fairseq_step(self, samples, *arguments, **named)
        except Exception as error:
            observers.watch.gradient_failed(error)
            raise
        if logged is not None and observers.recorder is not None:  # None: an overflow, no update was made
            observers.recorder.count(samples)
        return logged

    Trainer.train_step = train_step


def observe_logs() -> None:
    """Read fairseq's figures where it logs them: in the bar that it shows progress with."""
    fairseq_bar = progress_bar.progress_bar

    @functools.wraps(fairseq_bar)
    def bar(iterator: Any, *arguments: Any, **named: Any) -> Any:
        wrapped = fairseq_bar(iterator, *arguments, **named)
        observers = getattr(_latest[0]() if _latest else None, _OBSERVERS, None)
        if observers is None:  # fairseq-validate has no trainer
            return wrapped
        return ObservedBar(wrapped, observers, named.get("epoch"), is_validation="prefix" in named)

    progress_bar.progress_bar = bar


def observe_saving() -> None:
    """Look at all parameters before they are saved, and keep the time of saving out of the speed of training."""
    fairseq_save = checkpoint_utils.save_checkpoint

    @functools.wraps(fairseq_save)
    def save_checkpoint(cfg: DictConfig, trainer: Trainer, *arguments: Any, **named: Any) -> Any:
        observers: Observers | None = getattr(trainer, _OBSERVERS, None)
        if observers is None:
            return fairseq_save(cfg, trainer, *arguments, **named)
        with observers.recorder.paused() if observers.recorder is not None else nullcontext():
            if not cfg.no_save:
                observers.watch.before_save()
            return fairseq_save(cfg, trainer, *arguments, **named)

    checkpoint_utils.save_checkpoint = save_checkpoint


class ObservedBar:
    """A progress bar of fairseq's that also tells the observers what it shows."""

    def __init__(self, bar: Any, observers: Observers, epoch: int | None, is_validation: bool) -> None:
        self.bar = bar
        self.observers = observers
        self.epoch = epoch
        self._pause = nullcontext() if not is_validation or observers.recorder is None else observers.recorder.paused()
        self._pause.__enter__()  # until the validation prints its result
        if not is_validation:
            observers.watch.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        return iter(self.bar)

    def __len__(self) -> int:
        return len(self.bar)

    def log(self, stats: Mapping[str, Any], tag: str | None = None, step: int | None = None) -> None:
        """Figures of a log interval; fairseq's training calls this with the tag `train_inner`."""
        self.bar.log(stats, tag=tag, step=step)
        if tag == "train_inner" and step is not None:
            if self.observers.recorder is not None:
                self.observers.recorder.write_training(stats, step, self.epoch)
            self.observers.watch.after_log(stats, step)

    def print(self, stats: Mapping[str, Any], tag: str | None = None, step: int | None = None) -> None:
        """Figures of an epoch, whose log intervals have been told already, or of a validation."""
        self.bar.print(stats, tag=tag, step=step)
        if tag is not None and tag != "train":
            self._pause.__exit__(None, None, None)
            if self.observers.recorder is not None:
                self.observers.recorder.write_validation(stats, tag, self.epoch)
            self.observers.watch.after_validation(stats, tag)

    def update_config(self, config: Any) -> None:
        """The configuration, for bars that show it."""
        self.bar.update_config(config)


def _precision(cfg: Any) -> Precision:
    """Of the matrix products. --amp takes bfloat16 on CPUs, and on GPUs fairseq asks for nothing but fp16."""
    if isinstance(cfg, Namespace):
        cfg = convert_namespace_to_omegaconf(cfg)
    common = cfg.common
    if common.bf16 or (common.amp and on_cpu(cfg)):
        return "bf16"
    return "fp16" if common.fp16 or common.amp else "fp32"
