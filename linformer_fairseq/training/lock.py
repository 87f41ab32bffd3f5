"""One training at a time writes into a --save-dir."""

import fcntl
import logging
import os
import socket
import time
from pathlib import Path

from linformer_fairseq.errors import UsageError

logger = logging.getLogger(__name__)

NAME = ".lock"
PATIENCE = 20.0  # seconds; a job that is started again may meet the last processes of its former self
_held: dict[Path, int] = {}


def take(folder: Path) -> None:
    """Keeps other trainings out of `folder` until this process ends, in whatever way.

    The lock is the kernel's, so that a kill leaves none behind; what the file says is for people.

    Raises:
        UsageError: another training has it and does not end within `PATIENCE` seconds.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + PATIENCE
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise UsageError(
                    f"--save-dir {folder} is in use by another training ({holder}): wait until that has ended, or "
                    "give this one another --save-dir"
                ) from None
            if not said:
                logger.info(f"{folder} is in use ({holder}); waiting up to {PATIENCE:.0f} seconds for it")
                said = True
            time.sleep(0.2)
        except OSError as error:
            os.close(descriptor)
            logger.warning(f"{folder} cannot be locked ({error.strerror}): see to it that no other training uses it")
            return
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, _note().encode(), 0)
    _held[folder] = descriptor


def _note() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"host {socket.gethostname()}, process {os.getpid()}" + (f", Slurm job {job}" if job else "") + "\n"


def _let_go_in_child() -> None:
    """A data loader that outlives its killed training for some seconds must not hold the lock for it."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
