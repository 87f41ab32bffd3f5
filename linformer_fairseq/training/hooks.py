"""Every function of fairseq that a training run replaces, once, and what is done around it: read this file first.

Each function below stands in for the one that its `@replaces` names, and gets fairseq's own as its first argument. They
stand in the order in which a run calls them. The rest of this folder is called from here, and knows nothing of it.
"""

import logging
import os
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from signal import SIGTERM
from typing import Any
from weakref import ref

import torch.distributed
from fairseq import checkpoint_utils
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import progress_bar
from fairseq.optim import FairseqOptimizer
from fairseq.trainer import Trainer
from omegaconf import DictConfig, OmegaConf

from linformer_fairseq.compat import Function, launch, precision, replaces
from linformer_fairseq.errors import as_one_sentence
from linformer_fairseq.io.processes import end_with_parent
from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, count_on_host
from linformer_fairseq.optim.by_layer import by_layer
from linformer_fairseq.optim.muon import who_updates
from linformer_fairseq.training import (
    divergence,
    files,
    hardware,
    interrupt,
    position,
    preflight,
    ranks,
    resuming,
    run_directory,
    saving,
    signals,
)
from linformer_fairseq.training.recorder import Recorder

_latest: list[Any] = []  # a weak reference to the trainer of this process


def around(fairseq: Function, hook: Function) -> Function:
    """The hook, with fairseq's own function as its first argument; of the repairs in `compat` too."""

    @wraps(fairseq)
    def replacement(*arguments: Any, **named: Any) -> Any:
        return hook(fairseq, *arguments, **named)

    return replacement


# Starting.


@replaces(distributed_utils, "call_main")
def call_main(fairseq: Function, cfg: DictConfig, main: Function, **kwargs: Any) -> None:
    """All programs of fairseq start here; a training run also listens to signals and keeps logs."""
    training = getattr(main, "__module__", "") == "fairseq_cli.train"
    with as_one_sentence():
        splits = [cfg.dataset.train_subset] if training else []
        precision.refuse_fp16_on_cpu(cfg)  # before files are looked for
        position.refuse_damaged(cfg, ",".join([*splits, cfg.dataset.valid_subset]))
    if not training:
        end_with_parent()
        launch.start(fairseq, cfg, main, **kwargs)
        return
    with as_one_sentence():
        preflight.refuse_missing_packages(cfg)
        preflight.refuse_unchosen(cfg)
        preflight.refuse_useless(cfg)
        preflight.refuse_unfitting(cfg)
    signals.listen()
    signals.hold_for_children()
    end_with_parent(partial(os.kill, os.getpid(), SIGTERM))  # to save and stop
    # It reports each rank that outlives the first one to end, and the last line should say how to resume.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    try:
        launch.start(fairseq, cfg, partial(train_rank, main), **kwargs)
    except SystemExit as left:
        # Spawned ranks are told of Ctrl-C by another signal, so their status is that of the other one.
        if signals.noted and left.code == signals.REQUEUE:
            raise SystemExit(signals.status(signals.noted[0])) from None
        raise


def train_rank(main: Function, cfg: DictConfig, **kwargs: Any) -> None:
    """fairseq's `main` in each process of a training run."""
    resuming.forget_earlier_runs()
    interrupt.forget()
    signals.training_began.clear()
    with run_directory.logged(cfg):
        saving.will_finish = True
        with suppress(resuming.Ended):  # nothing to do; other runs of this process may follow
            main(cfg, **kwargs)
        saving.finish()


@replaces(Trainer, "__init__")
def create_trainer(
    fairseq: Function, trainer: Any, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None
) -> None:
    """Everything is built, and nothing has been loaded yet."""
    if isinstance(cfg, Namespace):
        cfg = convert_namespace_to_omegaconf(cfg)
    with as_one_sentence():
        preflight.refuse_too_long(cfg, task, model)
    signals.listen()  # in a spawned process too
    for train in resuming.train_modules():
        if not hasattr(train.validate_and_save, "__wrapped__"):
            train.validate_and_save = around(train.validate_and_save, validate_and_save)
    trainer.linformer_precision = precision.of_matrix_products(cfg)
    if precision.on_cpu(cfg):
        hardware.keep_freed_memory()
        precision.autocast_on_cpu(cfg, criterion)
    precision.keep_matrices_whole(cfg)
    fairseq(trainer, cfg, task, model, criterion, quantizer)
    ranks.watch(cfg.distributed_training.heartbeat_timeout)


@replaces(checkpoint_utils, "load_checkpoint")
def load_checkpoint(fairseq: Function, cfg: Any, trainer: Any, **options: Any) -> Any:
    """Resume from a whole checkpoint, or start; what observes the run begins here, with the model complete."""
    with as_one_sentence():
        prepared = resuming.prepare(cfg, trainer)
        try:
            extra_state, epoch_itr = fairseq(prepared, trainer, **options)
        except RuntimeError as error:
            resuming.explain(error, trainer, prepared.restore_file)
            raise
    if hasattr(checkpoint_utils.save_checkpoint, "best"):  # a run that resumes, not a start from another one
        resuming.restore_patience((extra_state.get("linformer_fairseq") or {}).get("patience") or {})
    ended = extra_state is not None and resuming.why_ended(trainer, epoch_itr)
    if ended:
        with as_one_sentence():
            resuming.mend_last(cfg, prepared.restore_file, trainer)
        logging.getLogger(__name__).info(f"{cfg.save_dir}: this run has ended ({ended}), so there is nothing to do")
        raise resuming.Ended(0)
    run_directory.keep_log(trainer.cfg)  # again, where Hydra has set up logging anew
    folder = run_directory.run_folder(trainer.cfg)
    trainer.linformer_recorder = Recorder(trainer, folder)
    trainer.linformer_watch = divergence.Watch(trainer, folder)
    _latest[:] = [ref(trainer)]
    return extra_state, epoch_itr


@replaces(Trainer, "load_checkpoint")
def load_state(fairseq: Function, trainer: Any, filename: str, *arguments: Any, **named: Any) -> Any:
    """Load the state that any number of processes has saved."""
    try:
        with precision.master_weights_restored(trainer):
            extra_state = fairseq(trainer, filename, *arguments, **named)
    except Exception as error:
        resuming.explain(error, trainer, filename)
        raise
    resuming.take_position(trainer, filename, extra_state)
    return extra_state


@replaces(Trainer, "_build_optimizer")
def build_optimizer(fairseq: Function, trainer: Any) -> None:
    """The model has its parameters; the state of the optimizer comes next, and may be an equivalent one's."""
    fairseq(trainer)
    if (decay := getattr(trainer.cfg.criterion, "layer_lr_decay", 1.0)) != 1:
        [group] = trainer.optimizer.param_groups  # in 16 bit, of copies in float32
        named = (pair for one in (trainer.model, trainer.criterion) for pair in one.named_parameters())
        pairs = zip((name for name, one in named if one.requires_grad), group["params"], strict=True)
        trainer.optimizer.param_groups[:] = [group | own for own in by_layer(pairs, group["lr"], decay)]
    resuming.adopt_names(trainer)
    if trainer.cfg.optimizer._name == "muon":
        logging.getLogger(__name__).info(f"updates by role:\n{who_updates(trainer.get_model())}")


@replaces(FairseqOptimizer, "set_lr")
def set_learning_rate(_: Function, optimizer: Any, lr: float) -> None:
    """fairseq gives all groups the same."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


@replaces(EpochBatchIterator, "_get_iterator_for_epoch")
def iterate(fairseq: Function, batches: Any, *arguments: Any, **named: Any) -> Any:
    """The batches of an epoch, loaded by workers that are started for it.

    fairseq keeps those of the first epoch, whose copy of the data never hears of the next one: `masked_lm` would mask
    the same tokens in every epoch, and a run that resumes in a later one would mask others.
    """
    batches.reuse_dataloader = batches.persistent_workers = False
    return fairseq(batches, *arguments, **named)


@replaces(Trainer, "begin_epoch")
def begin_epoch(fairseq: Function, trainer: Any, *arguments: Any) -> None:
    """From here on there is something to save."""
    signals.training_began.set()
    fairseq(trainer, *arguments)


@replaces(progress_bar, "progress_bar")
def show_progress(fairseq: Function, iterator: Any, *arguments: Any, **named: Any) -> Any:
    """fairseq shows its figures in a bar, for training and for each validation; read them where it shows them."""
    bar = fairseq(iterator, *arguments, **named)
    trainer = _latest[0]() if _latest else None
    if trainer is None:  # fairseq-validate has none
        return bar
    recorder, watch, epoch = trainer.linformer_recorder, trainer.linformer_watch, named.get("epoch")
    fairseq_log, fairseq_print = bar.log, bar.print
    if "prefix" in named:  # a validation
        recorder.pause()
    else:
        watch.epoch = epoch

    def log(stats: Mapping[str, Any], tag: str | None = None, step: int | None = None) -> None:
        fairseq_log(stats, tag=tag, step=step)
        if tag == "train_inner" and step is not None:
            recorder.write_training(stats, step, epoch)
            watch.after_log(stats, step)

    def print_result(stats: Mapping[str, Any], tag: str | None = None, step: int | None = None) -> None:
        fairseq_print(stats, tag=tag, step=step)
        if tag is not None and tag != "train":  # of an epoch, whose log intervals have been written already
            recorder.proceed()
            recorder.write_validation(stats, tag, epoch)
            watch.after_validation(stats, tag)

    bar.log, bar.print = log, print_result
    return bar


# Each update.


@replaces(Trainer, "train_step")
def train_step(fairseq: Function, trainer: Any, samples: Sequence[Any], *arguments: Any, **named: Any) -> Any:
    """One update; nothing continues from a gradient that is not finite.

    fairseq's own end is a traceback that names no example, after a copy of all parameters to `crash.pt`.
    """
    watch = getattr(trainer, "linformer_watch", None)
    if watch is None:
        return fairseq(trainer, samples, *arguments, **named)
    trainer.linformer_recorder.before_update()
    watch.before_update(samples)
    try:
        logged = fairseq(trainer, samples, *arguments, **named)
    except Exception as error:
        watch.gradient_failed(error)
        raise
    if logged is not None:  # else the gradient overflowed, and no update was made
        trainer.linformer_recorder.count(samples)
    return logged


@replaces(Trainer, "_prepare_sample")
def prepare_sample(fairseq: Function, trainer: Any, sample: Any, is_dummy: bool = False) -> Any:
    """Bring a batch to the device; what a step needs to know on the host is counted before."""
    encoder = getattr(trainer.get_model(), "encoder", None)
    if isinstance(encoder, LinformerRobertaEncoder) and sample and not is_dummy:
        count_on_host(sample, encoder.dictionary.pad())
    return fairseq(trainer, sample, is_dummy)


def validate_and_save(
    fairseq: Function, cfg: DictConfig, trainer: Any, task: Any, epoch_itr: Any, *arguments: Any
) -> Any:
    """fairseq calls this at the end of each update, whether or not it validates or saves then."""
    interrupt.position = cfg, epoch_itr
    losses, finished = fairseq(cfg, trainer, task, epoch_itr, *arguments)
    if not finished and (signals.noted or torch.distributed.is_initialized()):
        with as_one_sentence():
            interrupt.leave_if_asked(trainer)
    interrupt.position = None
    return losses, finished


@replaces(Trainer, "valid_step")
def valid_step(fairseq: Function, trainer: Any, *arguments: Any, **named: Any) -> Any:
    """One batch of a validation."""
    result = fairseq(trainer, *arguments, **named)
    if signals.noted:
        interrupt.save_within_validation(trainer)
    return result


# Saving. fairseq decides when, under which names, and which old checkpoints to remove.


@replaces(checkpoint_utils, "save_checkpoint")
def save_checkpoint(fairseq: Function, cfg: Any, trainer: Any, epoch_itr: Any, val_loss: float | None) -> Any:
    """All files of a save. Its time is not part of the speed of training."""
    start = time.monotonic()
    watched = hasattr(trainer, "linformer_watch")
    if watched:
        trainer.linformer_recorder.pause()
        if not cfg.no_save:
            trainer.linformer_watch.before_save()
    last = Path(cfg.save_dir) / f"checkpoint_last{trainer.checkpoint_suffix}.pt"
    # The same command starts from one that is there, such as that of a stop, so no save leaves an old one behind.
    renewing = OmegaConf.merge(cfg, {"no_last_checkpoints": False}) if last.exists() else cfg
    path = fairseq(renewing, trainer, epoch_itr, val_loss)
    if path is not None and saving.is_local(cfg.save_dir):
        saving.after_the_others(partial(saving.end, Path(path), trainer.get_num_updates(), start))
    if not (cfg.no_save or cfg.no_last_checkpoints):
        interrupt.saved = interrupt.state(trainer)
    if watched:
        trainer.linformer_recorder.proceed()
    return path


@replaces(Trainer, "save_checkpoint")
def save_state(_: Function, trainer: Any, filename: str, extra_state: dict[str, Any]) -> str:
    """The first file of a save; only ranks that save come here."""
    return saving.save(trainer, filename, extra_state)


@replaces(checkpoint_utils, "torch_persistent_save")
def write_checkpoint(fairseq: Function, content: Any, filename: Any, async_write: bool = False) -> None:
    """Write a file that is whole or absent."""
    if isinstance(filename, str) and saving.is_local(filename):
        files.write(content, Path(filename))
    else:
        fairseq(content, filename, async_write)


@replaces(PathManager, "copy")
def copy_checkpoint(fairseq: Function, source: str, target: str, overwrite: bool = False) -> Any:
    """The further files of a save are the same file, but for checkpoint_last.pt: two are independent at any time."""
    if not (saving.is_local(source) and saving.is_local(target)):
        return fairseq(source, target, overwrite)
    saving.after_the_others(partial(files.copy, Path(source), Path(target), Path(target).name == resuming.LAST))
    return target
