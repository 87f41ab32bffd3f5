"""Locks: one process at a time in a folder, until that process ends in any way."""

import fcntl
import logging
import os
import socket
import time
from pathlib import Path

from linformer_fairseq.errors import UsageError

logger = logging.getLogger(__name__)

NAME = ".lock"
_held: dict[Path, int] = {}


def hold(folder: Path, what: str, patience: float = 20.0) -> None:
    """Keep other processes out of a folder until this one ends.

    The kernel holds the lock, on the file `.lock` in the folder, so a killed process leaves none behind. Forked
    children do not inherit it, because a data loader may outlive its killed parent by some seconds.

    `what` is the kind of work that needs it, such as "training run". UsageError if another process still holds it after
    `patience` seconds, or the lock file is a link: what it points to would be overwritten.
    """
    file = folder.resolve() / NAME
    if file in _held and _same(file, _held[file]):
        return
    end, announced = time.monotonic() + patience, False
    while True:
        if file.is_symlink():
            raise UsageError(f"{file} is a link, and would overwrite what it points to; remove it")
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(file, descriptor):
                break
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
            if time.monotonic() >= end:
                os.close(descriptor)
                raise UsageError(
                    f"{folder} is in use by another {what} ({holder}): "
                    "wait until it has ended, or choose another folder"
                ) from None
            if not announced:
                logger.info(f"{folder} is in use ({holder}); waiting up to {patience:.0f} seconds")
                announced = True
            time.sleep(0.2)
        except OSError as error:
            os.close(descriptor)
            logger.warning(f"{folder} cannot be locked ({error.strerror}): make sure that no other {what} uses it")
            return
        os.close(descriptor)  # the file may be removed or replaced meanwhile, and others lock the new one
    job = os.environ.get("SLURM_JOB_ID")
    note = f"host {socket.gethostname()}, process {os.getpid()}" + (f", Slurm job {job}" if job else "") + "\n"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, note.encode(), 0)
    if file in _held:
        os.close(_held[file])
    _held[file] = descriptor


def keep(folder: Path, what: str) -> None:
    """Make sure that this process still keeps others out of a folder, if `hold` did; call it before writing there.

    A lock file that was removed, with its folder or without, is made again. UsageError if there is another one: its
    maker may have written to the folder, or still does.
    """
    file = folder.resolve() / NAME
    if file in _held and not _same(file, _held[file]):
        if file.exists():
            raise UsageError(
                f"{file} was replaced, so another {what} has used {folder} meanwhile: make sure that none runs there "
                "and that its checkpoints are the ones you want, and start the same command again"
            )
        folder.mkdir(parents=True, exist_ok=True)
        hold(folder, what, patience=0)


def _same(file: Path, descriptor: int) -> bool:
    """Whether the file is the one that this process has opened."""
    try:
        return os.path.samestat(os.lstat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release() -> None:
    while _held:
        os.close(_held.popitem()[1])


os.register_at_fork(after_in_child=_release)
