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
    """A command that resumes when it is started again."""

    name: str
    argv: tuple[str, ...]
    saves_on_signal: bool = False
    """It is a training process: on a signal it saves and exits with status `REQUEUE`."""

    def __call__(self) -> None:
        """Run it to its end, or until submitit requeues the job; CalledProcessError if it fails."""
        global _running
        handler = signal.getsignal(signal.SIGUSR2)
        if not self.saves_on_signal:  # Some clusters signal the program too. It must survive until submitit has acted.
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        with subprocess.Popen(self.argv) as _running:
            signal.signal(signal.SIGUSR2, handler)
            if self.saves_on_signal:
                signal.signal(signal.SIGTERM, _forward)
            status = _running.wait()
        if self.saves_on_signal and (status == REQUEUE or -status in WARNINGS):
            _hand_over()
        if status:
            raise subprocess.CalledProcessError(status, self.argv)

    def checkpoint(self) -> Any:
        """What remains to be done, once a training has saved its state."""
        from submitit.helpers import DelayedSubmission

        if self.saves_on_signal and _running is not None and _running.returncode is None:
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
