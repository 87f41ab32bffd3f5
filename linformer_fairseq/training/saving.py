"""How a training run saves: whole files with checksums, large ones in the background while training continues."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
from fairseq import checkpoint_utils
from fairseq import utils as fairseq_utils
from fairseq.file_io import PathManager
from torch import Tensor

from linformer_fairseq.compat.precision import master_weights
from linformer_fairseq.io import locks
from linformer_fairseq.training import files, resuming

logger = logging.getLogger(__name__)

LARGE = 5 << 20  # bytes of parameters; below, the file is written before a copy of it would pay
will_finish = False
"""Whether `finish` will be called before this process ends, so that files may be written in the background."""

_writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
_jobs: list[Future[None]] = []


def finish() -> None:
    """Wait until all is on the disk; raises a UsageError if that was full or failed."""
    while _jobs:
        _jobs.pop(0).result()


def save(trainer: Any, filename: str, extra_state: dict[str, Any]) -> str:
    """Save the state of a run, and hand the writing to another thread if it is large; returns the absolute path."""
    finish()
    path = Path(filename).absolute()
    locks.keep(path.parent, "training run")
    state = trainer.state_dict()
    state["model"].update(master_weights(trainer))
    ours = {"processes": trainer.data_parallel_world_size, "patience": resuming.patience()}
    ours["position"] = getattr(trainer, "linformer_position", {})
    state["extra_state"].update(extra_state, linformer_fairseq=ours)
    size = sum(parameter.nbytes for parameter in trainer.model.parameters())
    if will_finish and size >= LARGE and is_local(filename):
        logger.info(f"Saving {path} in the background")
        _jobs.append(_writer.submit(files.write, snapshot(state), path))
    else:
        checkpoint_utils.torch_persistent_save(fairseq_utils.move_to_cpu(state), str(filename))
    return str(path)


def after_the_others(job: Callable[[], None]) -> None:
    """Do it at once, or, if something is being written, in the background after that."""
    if _jobs:
        _jobs.append(_writer.submit(job))
    else:
        job()


def end(path: Path, updates: int, since: float) -> None:
    """All files of a save are there. fairseq has removed old ones, but not their checksums."""
    files.remove_lone_checksums(path.parent)
    logger.info(f"Saved {updates} updates in {path}, {time.monotonic() - since:.2f} seconds after the last one")


def snapshot(state: dict[str, Any]) -> dict[str, Any]:
    """A copy of a state in the memory of the host, as fairseq would write it: half precision as float32.

    Tensors that share their memory share it in the copy too.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        key = (tensor.device, tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in copies:
            half = tensor.dtype in (torch.float16, torch.bfloat16)
            copies[key] = tensor.detach().to("cpu", torch.float32 if half else tensor.dtype, copy=True)
        return copies[key]

    return cast(dict[str, Any], fairseq_utils.apply_to_sample(copied, state))


def is_local(path: str) -> bool:
    """Whether fairseq would write it to a file system of this machine."""
    return not PathManager.path_requires_pathmanager(path)
