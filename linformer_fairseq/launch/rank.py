"""One process of a training that srun has started: `python slurm/rank.py fairseq-train DATA …`.

It is fairseq-train, with an end that srun understands. A process that fails says why and is gone at once, so that it
is the first to go and srun takes the others down; a tidy exit can wait for a dead peer inside NCCL for half an hour.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

REQUEUE = (
    75  # EX_TEMPFAIL: the run is saved and wants to go on; the same number in linformer_fairseq.training.interrupt
)
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


def train(argv: Sequence[str]) -> int:
    """Run `fairseq-train` in this process; return its exit status."""
    sys.argv = list(argv)
    from linformer_fairseq.plugin import register

    register()
    from fairseq_cli.train import cli_main

    try:
        cli_main()
    except SystemExit as ending:
        if ending.code is None or isinstance(ending.code, int):
            return ending.code or 0
        print(ending.code, file=sys.stderr)
        return 1
    return 0


def main(argv: Sequence[str]) -> int:
    """Train; return the exit status, or end this process with it if the training has failed."""
    for number in WARNINGS:
        signal.signal(number, _leave_before_the_start)
    try:
        status = train(argv)
    except BaseException:
        traceback.print_exc()
        status = 1
    if status not in (0, REQUEUE):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    # Rank 0 writes the checkpoint. Of those that only waited for it, none may go first: srun would kill rank 0.
    if status == REQUEUE and os.environ.get("SLURM_PROCID", "0") != "0":
        return 0
    return status


def _leave_before_the_start(number: int, frame: FrameType | None) -> None:
    """Stands in for the trainer's handlers until they are there. Nothing has been computed yet."""
    os._exit(REQUEUE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
