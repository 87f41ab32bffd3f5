"""What submitit runs in each task of a job, and how it resumes after a timeout or a preemption.

submitit listens to SIGUSR2 (NCCL uses SIGUSR1), asks the task with `checkpoint()` for what remains to be done, and
requeues the job. Every program started here finds by itself what is done, so what remains is the same command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

from linformer_fairseq.launch.job import still_ours
from linformer_fairseq.launch.rank import REQUEUE, WARNINGS

_running: subprocess.Popen[bytes] | None = None


@dataclass(frozen=True)
class Task:
    """A command that resumes when it is started again, whether it saves its state on a signal or is ended by it."""

    name: str
    argv: tuple[str, ...]

    def __call__(self) -> None:
        """Run it to its end, or until submitit requeues the job; CalledProcessError if it fails."""
        global _running
        with subprocess.Popen(self.argv) as _running:
            signal.signal(signal.SIGTERM, _forward)
            status = _running.wait()
        if status == REQUEUE or -status in WARNINGS:  # some clusters signal the program too
            _hand_over()
        if status:
            raise subprocess.CalledProcessError(status, self.argv)

    def checkpoint(self) -> Any:
        """What remains to be done, once the command has ended."""
        from submitit.helpers import DelayedSubmission

        if _running is not None and _running.returncode is None:
            _forward(signal.SIGUSR2, None)
            # This is inside a signal handler, which may have interrupted `_running.wait()`.
            os.waitid(os.P_PID, _running.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(self)


def _forward(number: int, frame: FrameType | None) -> None:
    assert _running is not None
    _running.send_signal(number)


def _hand_over() -> None:
    """Let submitit requeue the job unless it was cancelled. Only the first process does that."""
    if os.environ.get("SLURM_PROCID", "0") == "0" and still_ours(os.environ):
        os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(120)  # Slurm ends this process
    os._exit(REQUEUE)
