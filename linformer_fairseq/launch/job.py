"""The life of a pretraining job: checked and queued, then started, watched, and queued again where it was cut short.

`slurm/pretrain.sh` runs this, on the login node and as the job itself.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from linformer_fairseq.errors import UsageError, as_one_sentence
from linformer_fairseq.launch.checks import Pretraining, from_environment, number
from linformer_fairseq.launch.jobstate import job_name, still_ours
from linformer_fairseq.launch.rank import REQUEUE

SCRIPT = "slurm/pretrain.sh"
# What srun says when a task has ended other than with 0: "srun: error: node2: tasks 4-5: Killed".
ENDED = re.compile(r"srun: error: (?P<node>[^:\s]+): tasks? (?P<tasks>[\d,-]+): (?P<how>.+)$")
EXIT_CODE = re.compile(r"Exited with exit code (\d+)")
TAIL = 40  # lines of the log of the process that died


@dataclass(frozen=True)
class Death:
    """The first process of a step that ended with something other than 0."""

    rank: int
    node: str
    how: str

    @property
    def status(self) -> int | None:
        """Its exit status; None if a signal killed it."""
        found = EXIT_CODE.match(self.how)
        return int(found[1]) if found else None


def submit(flags: Sequence[str], environ: Mapping[str, str]) -> int:
    """Check everything that can be checked here, then call sbatch; return its exit status.

    Raises:
        UsageError: the job could not run, or there is no Slurm.
    """
    if shutil.which("sbatch") is None:
        raise UsageError("there is no sbatch here: without Slurm, use `python slurm/launch.py pretrain --local`")
    from_environment(environ, flags).argv()
    size = []
    if environ.get("NODES"):
        size.append(f"--nodes={int(number(environ, 'NODES', 8))}")
    if environ.get("GPUS"):
        gpus = int(number(environ, "GPUS", 8))
        size += [f"--ntasks-per-node={gpus}", f"--gres=gpu:{gpus}"]
    return subprocess.run(["sbatch", *size, SCRIPT, *flags]).returncode


def run(flags: Sequence[str], environ: Mapping[str, str]) -> int:
    """Train in all tasks of this job, and queue it again if it was cut short; return the job's exit status.

    Raises:
        UsageError: the job cannot run.
    """
    wanted, given = environ.get("NODES"), environ.get("SLURM_JOB_NUM_NODES", "1")
    if wanted and wanted != given:
        raise UsageError(
            f"NODES={wanted}, but the job has {given} nodes, since sbatch does not read NODES: run "
            f"`NODES={wanted} {SCRIPT}` without sbatch, or `sbatch --nodes={wanted} {SCRIPT}`"
        )
    training = from_environment(environ, flags)
    retries = int(number(environ, "RETRIES", 3))
    argv = training.argv()
    logs = training.save_dir / "logs"
    _say(f"start {environ.get('SLURM_RESTART_COUNT', '0')} on {environ.get('SLURM_JOB_NODELIST', 'this machine')}")
    _say(shlex.join(argv))
    _say(f"what each process prints: {logs}/rank-*.log")
    status, death = _srun(argv, logs, environ)
    if status == 0 and death is None:
        return 0
    # srun's own status is the highest of all, and processes that are taken down may still save and leave with REQUEUE
    first = status if death is None or death.status is None else death.status
    if not still_ours(environ):
        _say("the job was cancelled, or Slurm has queued it again")
        return first or 1
    if first == REQUEUE and (death is None or death.status is not None):
        _say("the run is saved")
        return requeue(environ)
    if death is not None:
        print(_tail(death, logs))
        if death.status is None and forgiven(training, retries):
            return requeue(environ)
    return first or 1


def _srun(argv: Sequence[str], logs: Path, environ: Mapping[str, str]) -> tuple[int, Death | None]:
    """Start the processes and wait for them: the exit status of srun, and which process died first."""
    # Their output goes to files and srun's own stays here. From Slurm 22.05 on, srun must be told --cpus-per-task.
    output = str(logs).replace("%", "%%") + "/rank-%t.log"
    command = ["srun", "--kill-on-bad-exit=1", "--open-mode=append", f"--output={output}"]
    if cpus := environ.get("SLURM_CPUS_PER_TASK"):
        command.append(f"--cpus-per-task={cpus}")
    command += [sys.executable, "-u", "-m", "linformer_fairseq.launch.rank", *argv]
    first: Death | None = None
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as srun:

        def pass_on(number: int, frame: FrameType | None) -> None:
            """With `--signal=B:USR1@…` Slurm tells only this script. At SIGTERM it has told the tasks itself."""
            if number != signal.SIGTERM:
                srun.send_signal(number)

        for each in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(each, pass_on)
        assert srun.stderr is not None
        for line in srun.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            first = first or parse_death(line)
    return srun.returncode, first


def parse_death(line: str) -> Death | None:
    """The death that a line of srun's reports, if it does."""
    found = ENDED.search(line)
    if found is None:
        return None
    return Death(int(re.split("[,-]", found["tasks"])[0]), found["node"], found["how"].strip())


def requeue(environ: Mapping[str, str]) -> int:
    """Put this job back into the queue; return REQUEUE if Slurm does not do that, or else wait for the end."""
    _say("back to the queue")
    sys.stdout.flush()
    if subprocess.run(["scontrol", "requeue", job_name(environ)]).returncode != 0:
        _say("Slurm does not queue this job again: submit it once more, and the run goes on")
        return REQUEUE
    time.sleep(60)  # Slurm ends this script
    return 0


def forgiven(training: Pretraining, retries: int) -> bool:
    """Count a process that a signal has killed (out of memory, a bad GPU, an administrator).

    Returns:
        False after more than `retries` such deaths in a row without a new checkpoint between them.
    """
    record = training.save_dir / "logs/deaths.json"
    last = training.save_dir / "checkpoint_last.pt"
    saved = last.stat().st_mtime_ns if last.exists() else 0
    try:
        before = json.loads(record.read_text())
    except (OSError, ValueError):
        before = {}
    count = before.get("count", 0) + 1 if before.get("saved") == saved else 1
    record.write_text(json.dumps({"saved": saved, "count": count}))
    if count <= retries:
        return True
    _say(f"{count} deaths in a row without a new checkpoint, more than RETRIES={retries}: not queued again")
    return False


def _tail(death: Death, logs: Path) -> str:
    log = logs / f"rank-{death.rank}.log"
    lines = log.read_text(errors="replace").splitlines()[-TAIL:] if log.exists() else ["(no log)"]
    heading = f"pretrain: task {death.rank} on {death.node} ended first: {death.how}; the end of {log}:"
    return "\n".join([heading, *(f"    {line}" for line in lines)])


def _say(text: str) -> None:
    print(f"pretrain: {text}", flush=True)


def main(flags: Sequence[str], environ: Mapping[str, str]) -> int:
    """Queue the job, or be it; return the exit status."""
    logging.disable(logging.INFO)  # what fairseq says while a recipe is read
    with as_one_sentence():
        return run(flags, environ) if "SLURM_JOB_ID" in environ else submit(flags, environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
