"""The life of a training job: checked and queued, then started, watched, and requeued if it was cut short.

`slurm/pretrain.sh` runs this module, both on the login node and inside the job.
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
from functools import partial
from pathlib import Path
from typing import NamedTuple

from linformer_fairseq.errors import UsageError, exit_status
from linformer_fairseq.launch.rank import REQUEUE
from linformer_fairseq.launch.training_run import number, training_run

# What srun prints when a task exits with a status other than 0: "srun: error: node2: tasks 4-5: Killed".
FAILED_TASK = re.compile(r"srun: error: ([^:\s]+): tasks? (\d+)[\d,-]*: (Exited with exit code (\d+)|.+)")
LOG_LINES = 40  # shown of the process that failed first
_say = partial(print, "pretrain:", flush=True)


class Failure(NamedTuple):
    """The first process of a step that ended with a status other than 0."""

    rank: int
    node: str
    how: str
    status: int | None
    """Its exit status; None if a signal killed it."""


def submit(script: str, flags: Sequence[str], environ: Mapping[str, str]) -> int:
    """Call sbatch and return its exit status; UsageError if the job could not run, or there is no Slurm."""
    if shutil.which("sbatch") is None:
        raise UsageError("there is no sbatch here: without Slurm, use `linformer launch pretrain --local`")
    training_run(environ, flags)
    size = [f"--nodes={int(number(environ, 'NODES', 0))}"] if environ.get("NODES") else []
    if environ.get("GPUS"):
        gpus = int(number(environ, "GPUS", 0))
        size += [f"--ntasks-per-node={gpus}", f"--gres=gpu:{gpus}"]
    return subprocess.run(["sbatch", *size, script, *flags]).returncode


def run(flags: Sequence[str], environ: Mapping[str, str]) -> int:
    """Train in all tasks of this job, requeue it if it was cut short, return its exit status; UsageError as above."""
    wanted, given = environ.get("NODES"), environ.get("SLURM_JOB_NUM_NODES", "1")
    if wanted and wanted != given:
        raise UsageError(
            f"NODES={wanted}, but the job has {given} nodes, since sbatch does not read NODES: run the script itself "
            f"with NODES={wanted}, or submit it with `sbatch --nodes={wanted}`"
        )
    retries = int(number(environ, "RETRIES", 3))
    save_dir, argv = training_run(environ, flags)
    logs = save_dir / "logs"
    _say(f"start {environ.get('SLURM_RESTART_COUNT', '0')} on {environ.get('SLURM_JOB_NODELIST', 'this machine')}")
    _say(shlex.join(argv))
    _say(f"output of each process: {logs}/rank-*.log")
    status, failure = _srun(argv, logs, environ)
    if status == 0 and failure is None:
        return 0
    # srun's own status is the highest of all, and processes that are ended along may still save and exit with REQUEUE
    first = status if failure is None or failure.status is None else failure.status
    if not still_ours(environ):
        _say("the job was cancelled, or Slurm has already requeued it")
        return first or 1
    if first == REQUEUE and (failure is None or failure.status is not None):
        _say("the run is saved")
        return requeue(environ)
    if failure is not None:
        log = logs / f"rank-{failure.rank}.log"
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else ["(no log)"]
        _say(f"task {failure.rank} on {failure.node} failed first: {failure.how}; the end of {log}:")
        print(*(f"    {line}" for line in lines), sep="\n", flush=True)
        if failure.status is None and may_retry(save_dir, retries):
            return requeue(environ)
    return first or 1


def _srun(argv: Sequence[str], logs: Path, environ: Mapping[str, str]) -> tuple[int, Failure | None]:
    """Start the processes and wait for them: the exit status of srun, and which process failed first."""
    # Their output goes to files and srun's own stays here. From Slurm 22.05 on, srun must be told --cpus-per-task.
    output = str(logs).replace("%", "%%") + "/rank-%t.log"
    command = ["srun", "--kill-on-bad-exit=1", "--open-mode=append", f"--output={output}"]
    if cpus := environ.get("SLURM_CPUS_PER_TASK"):
        command.append(f"--cpus-per-task={cpus}")
    command += [sys.executable, "-u", "-m", "linformer_fairseq.launch.rank", *argv]
    first: Failure | None = None
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as srun:
        # With `--signal=B:USR1@…` Slurm signals only this script. SIGTERM it sends to the tasks itself.
        for each in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, lambda number, frame: srun.send_signal(number))
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        assert srun.stderr is not None
        for line in srun.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            first = first or parse_failure(line)
    return srun.returncode, first


def parse_failure(line: str) -> Failure | None:
    """The failure that a line of srun's output reports, if it does."""
    if found := FAILED_TASK.search(line):
        node, rank, how, status = found.groups()
        return Failure(int(rank), node, how, int(status) if status else None)
    return None


def still_ours(environ: Mapping[str, str]) -> bool:
    """Whether Slurm regards this start of the job as running: neither cancelled nor requeued nor started again."""
    id = environ["SLURM_JOB_ID"]
    shown = subprocess.run(["scontrol", "show", "job", "-o", id], capture_output=True, text=True).stdout
    # The number of an array's last element is that of the whole array, which is shown with a line for each element.
    line = next((line for line in shown.splitlines() if line.startswith(f"JobId={id} ")), "")
    fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
    restarts = environ.get("SLURM_RESTART_COUNT") or "0"
    return (fields.get("JobState"), fields.get("Restarts")) == ("RUNNING", restarts)


def job_name(environ: Mapping[str, str]) -> str:
    """The job as scontrol takes it; one element if it is part of an array."""
    if "SLURM_ARRAY_TASK_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ["SLURM_JOB_ID"]


def requeue(environ: Mapping[str, str]) -> int:
    """Requeue this job; return REQUEUE if Slurm refuses, or else wait until Slurm ends this script."""
    _say("requeued")
    if subprocess.run(["scontrol", "requeue", job_name(environ)]).returncode != 0:
        _say("Slurm does not requeue this job: submit it again, and the run resumes")
        return REQUEUE
    time.sleep(60)
    return 0


def may_retry(save_dir: Path, retries: int) -> bool:
    """Count a process killed by a signal: False after more than `retries` in a row without a new checkpoint."""
    record, last = save_dir / "logs/deaths.json", save_dir / "checkpoint_last.pt"
    saved = last.stat().st_mtime_ns if last.exists() else 0
    try:
        before = json.loads(record.read_text())
    except (OSError, ValueError):
        before = {}
    count = before.get("count", 0) + 1 if before.get("saved") == saved else 1
    record.write_text(json.dumps({"saved": saved, "count": count}))
    if count > retries:
        _say(f"{count} killed processes in a row without a new checkpoint, more than RETRIES={retries}: not requeued")
    return count <= retries


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Queue the job, or be it; return the exit status. `argv` holds the sbatch script and flags of fairseq-train."""
    logging.disable(logging.INFO)  # fairseq logs while a recipe is read
    script, *flags = argv
    inside = "SLURM_JOB_ID" in environ
    return exit_status("pretrain", partial(run, flags, environ) if inside else partial(submit, script, flags, environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
