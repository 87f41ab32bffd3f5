"""Starts a program once for each of two ranks, as srun would, and passes no signal on.

    python tests/two_ranks.py PROGRAM ARGUMENT…     `{rank}` in an argument is the rank

PROGRAM is a Python file. SLURM_PROCID and SLURM_LOCALID tell a rank who it is; the rest is in the environment already.
"""

import os
import runpy
import signal
import sys

tasks = []
for rank in ("0", "1"):
    task = os.fork()
    if not task:
        os.environ |= {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        sys.argv = [word.replace("{rank}", rank) for word in sys.argv[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")
        sys.exit()
    tasks.append(task)
for asking in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
    signal.signal(asking, signal.SIG_IGN)
sys.exit(max(abs(os.waitstatus_to_exitcode(os.waitpid(task, 0)[1])) for task in tasks))
