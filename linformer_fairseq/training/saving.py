"""How a training saves: whole files with checksums, and large ones in the background while training goes on.

fairseq decides when, under which names and which old ones to remove. It writes into a file in place, copies it in full
for each further name, and trains on only when all is written.
"""

import functools
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, file_io
from fairseq import utils as fairseq_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from torch import Tensor

from linformer_fairseq.training import files

logger = logging.getLogger(__name__)

LARGE = 16 << 20  # bytes; below, writing takes less time than it is worth to think about
_writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
_jobs: list[Future[None]] = []
_may_wait = False  # somebody will `finish`


def save_whole_files() -> None:
    """Put all this in the place of fairseq's ways to write and to copy checkpoints."""
    start, copy = distributed_utils.call_main, file_io.PathManager.copy
    persist, save = checkpoint_utils.torch_persistent_save, checkpoint_utils.save_checkpoint

    def call_main(cfg: Any, main: Callable[..., object], **kwargs: Any) -> None:
        if getattr(main, "__module__", "") == "fairseq_cli.train":
            main = functools.partial(_train_then_finish, main)
        start(cfg, main, **kwargs)

    def torch_persistent_save(obj: Any, filename: Any, async_write: bool = False) -> None:
        if isinstance(filename, str) and _is_local(filename):
            files.write(obj, Path(filename))
        else:
            persist(obj, filename, async_write)

    def copy_whole(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if not (_is_local(src_path) and _is_local(dst_path)):
            return copy(src_path, dst_path, overwrite)
        _after_the_others(functools.partial(files.copy, Path(src_path), Path(dst_path)))
        return dst_path

    @functools.wraps(save)
    def save_checkpoint(cfg: Any, trainer: Trainer, epoch_itr: Any, val_loss: float | None) -> Any:
        since = time.monotonic()
        path = save(cfg, trainer, epoch_itr, val_loss)
        if path is not None and _is_local(cfg.save_dir):
            _after_the_others(functools.partial(_end, Path(path), trainer.get_num_updates(), since))
        return path

    distributed_utils.call_main = call_main
    checkpoint_utils.torch_persistent_save = torch_persistent_save
    file_io.PathManager.copy = staticmethod(copy_whole)
    checkpoint_utils.save_checkpoint = save_checkpoint
    Trainer.save_checkpoint = _save


def finish() -> None:
    """Wait until all is on the disk.

    Raises:
        UsageError: the disk was full or failed.
    """
    while _jobs:
        _jobs.pop(0).result()


def _train_then_finish(main: Callable[..., object], cfg: Any, **kwargs: Any) -> None:
    global _may_wait
    _may_wait = True
    main(cfg, **kwargs)
    finish()


def _save(self: Trainer, filename: str, extra_state: dict[str, Any]) -> str | None:
    """fairseq's `Trainer.save_checkpoint`, which hands a copy of the state to the thread that writes."""
    if not self.should_save_checkpoint_on_current_rank:
        return None
    finish()
    path = Path(filename).absolute()
    state = self.state_dict()
    state["extra_state"].update(extra_state, linformer_fairseq={"processes": self.data_parallel_world_size})
    in_background = _may_wait and _is_local(filename) and _bytes(state) >= LARGE
    if not in_background:
        checkpoint_utils.torch_persistent_save(fairseq_utils.move_to_cpu(state), str(filename))
    else:
        logger.info(f"Saving {path} in the background")
        _jobs.append(_writer.submit(files.write, snapshot(state), path))
    return str(path)


def _end(path: Path, updates: int, since: float) -> None:
    """All files of a save are there. fairseq has removed old ones, but not their checksums."""
    files.remove_lone_checksums(path.parent)
    logger.info(f"Saved {updates} updates, {time.monotonic() - since:.2f} seconds after the last one: {path}")


def _after_the_others(job: Callable[[], None]) -> None:
    """Do it at once, or, if something is being written, after that and in the background too."""
    if _jobs:
        _jobs.append(_writer.submit(job))
    else:
        job()


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

    result: dict[str, Any] = fairseq_utils.apply_to_sample(copied, state)
    return result


def _bytes(state: dict[str, Any]) -> int:
    sizes: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    fairseq_utils.apply_to_sample(count, state)
    return sum(sizes.values())


def _is_local(path: str) -> bool:
    return not file_io.PathManager.path_requires_pathmanager(path)
