"""Locks: one process at a time in a folder, until that process ends in any way."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from linformer_fairseq.errors import UsageError

logger = logging.getLogger(__name__)

NAME = ".lock"
_held: dict[Path, int] = {}


def hold(path: Path, what: str, patience: float = 20.0) -> ExitStack:
    """Keep other processes out until this one ends, or until the result is closed or left as a context manager.

    The kernel holds the lock, so a killed process leaves none behind. Forked children do not inherit it, because a data
    loader may outlive its killed parent by some seconds.

    `path` is a folder, which is locked by `.lock` in it, or the lock file itself; `what` is the kind of work that needs
    it, such as "training run". UsageError if another process still holds it after `patience` seconds.
    """
    lock = ExitStack()
    file = (path / NAME if path.is_dir() else path).resolve()
    if file in _held:
        return lock
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    start, announced = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
            if time.monotonic() - start >= patience:
                os.close(descriptor)
                raise UsageError(
                    f"{path} is in use by another {what} ({holder}): wait until it has ended, or choose another folder"
                ) from None
            if not announced:
                logger.info(f"{path} is in use ({holder}); waiting up to {patience:.0f} seconds")
                announced = True
            time.sleep(0.2)
        except OSError as error:
            os.close(descriptor)
            logger.warning(f"{path} cannot be locked ({error.strerror}): make sure that no other {what} uses it")
            return lock
    job = os.environ.get("SLURM_JOB_ID")
    note = f"host {socket.gethostname()}, process {os.getpid()}" + (f", Slurm job {job}" if job else "") + "\n"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, note.encode(), 0)
    _held[file] = descriptor
    lock.callback(_release, file)
    return lock


def _release(*files: Path) -> None:
    for file in files or list(_held):
        if file in _held:
            os.close(_held.pop(file))


os.register_at_fork(after_in_child=_release)
