"""What submitit runs in each task of a job, and how it goes on after a time-out or a pre-emption.

submitit listens to SIGUSR2 (NCCL has uses for SIGUSR1), asks the work for what is left of it with `checkpoint()`, and
puts the job back into the queue. Every program here finds by itself what is done, so what is left is the same command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

from linformer_fairseq.launch.jobstate import still_ours
from linformer_fairseq.launch.rank import REQUEUE, WARNINGS

_running: subprocess.Popen[bytes] | None = None


@dataclass(frozen=True)
class Work:
    """A program that goes on where it was stopped when it is started again."""

    argv: tuple[str, ...]
    saves: bool = False
    """It is a process of a training: it saves when it gets a signal, and leaves with exit status `REQUEUE`."""

    def __call__(self) -> None:
        """Run it to its end, or until submitit queues the job again.

        Raises:
            subprocess.CalledProcessError: it failed; its log says why.
        """
        global _running
        submitits = signal.getsignal(signal.SIGUSR2)
        if not self.saves:  # some clusters signal it beside submitit, and it would be dead before submitit has answered
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        with subprocess.Popen(self.argv) as _running:
            signal.signal(signal.SIGUSR2, submitits)
            if self.saves:
                signal.signal(signal.SIGTERM, _pass_on)
            status = _running.wait()
        if self.saves and (status == REQUEUE or -status in WARNINGS):
            _hand_over()
        if status:
            raise subprocess.CalledProcessError(status, self.argv)

    def checkpoint(self) -> Any:
        """What is left to do, once a training has saved what it has done."""
        from submitit.helpers import DelayedSubmission

        if self.saves and _running is not None and _running.returncode is None:
            _pass_on(signal.SIGUSR2, None)
            # This is inside a signal handler, and `_running.wait()` may be what was interrupted.
            os.waitid(os.P_PID, _running.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(self)


def _pass_on(number: int, frame: FrameType | None) -> None:
    assert _running is not None
    _running.send_signal(number)


def _hand_over() -> None:
    """Let submitit queue the job again, unless it was cancelled. Only its first process does that."""
    if os.environ.get("SLURM_PROCID", "0") == "0" and still_ours(os.environ):
        os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(120)  # Slurm ends this process
    os._exit(REQUEUE)
