"""One training process that srun starts: `python -m linformer_fairseq.launch.rank fairseq-train DATA …`.

It is fairseq-train with an exit that srun understands. A process that fails prints its traceback and exits at once,
so that srun sees it first and ends the others; a clean exit can wait half an hour for a dead peer inside NCCL.
"""

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from linformer_fairseq.training.signals import REQUEUE

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


def main(argv: Sequence[str]) -> int:
    """Run `fairseq-train`; return the exit status, or end this process with it if the training has failed."""
    for number in WARNINGS:  # until the trainer's handlers are installed; nothing has been computed yet
        signal.signal(number, lambda *_: os._exit(REQUEUE))
    sys.argv = list(argv)
    status = 1
    try:
        from fairseq_cli.train import cli_main  # first: it sets up logging to standard output

        from linformer_fairseq.plugin import register

        register()
        cli_main()
        status = 0
    except SystemExit as exiting:
        if exiting.code is None or isinstance(exiting.code, int):
            status = exiting.code or 0
        else:
            print(exiting.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    if status not in (0, REQUEUE):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    # Rank 0 writes the checkpoint. If another rank exited first with a failure, srun would kill rank 0.
    return 0 if status == REQUEUE and os.environ.get("SLURM_PROCID", "0") != "0" else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
