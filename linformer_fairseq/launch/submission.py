"""A submission through submitit: a folder with what was submitted, and what has become of it.

A folder is never used twice: submitit names its files after job numbers, and a cluster that is set up again counts
from 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.launch.task import Task
from linformer_fairseq.paths import CLONE

RECORD = "submission.json"
WARNING_S = 120  # from the warning to the end: time for one update and a checkpoint
TIMEOUTS = 1000  # how often a job may reach its time limit and resume
LIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "PREEMPTED", "SUSPENDED", "UNKNOWN")


def slurm_parameters(a: argparse.Namespace) -> dict[str, Any]:
    """What each job asks for, by submitit's names, from the arguments of `linformer launch`."""
    site = Path(os.environ.get("SITE") or (CLONE or Path()) / "slurm/site.sh")
    setup = [f"source {shlex.quote(str(site.resolve()))}"] if site.is_file() else []
    if CLONE:
        setup.append(f"export PYTHONPATH={shlex.quote(str(CLONE))}:${{PYTHONPATH:-}}")
    given = {
        "job_name": a.command,
        "time": round(a.hours * 60),
        "nodes": a.nodes,
        "ntasks_per_node": max(1, a.gpus) if a.command == "pretrain" else 1,
        "cpus_per_task": a.cpus,
        "gres": f"gpu:{a.gpus}" if a.gpus else None,
        "partition": a.partition,
        "account": a.account,
        "array_parallelism": a.parallel,
        "signal_delay_s": WARNING_S,
        "stderr_to_stdout": True,
        "setup": setup,
        # from Slurm 22.05 on, srun does not take --cpus-per-task over from sbatch
        "srun_args": ["--kill-on-bad-exit=1", "--open-mode=append", f"--cpus-per-task={a.cpus}"],
        "additional_parameters": {"requeue": True},
    }
    return {name: value for name, value in given.items() if value is not None}


def new_folder(parent: Path, kind: str) -> Path:
    """The name of a folder that does not exist yet; the newest of a kind is the last in alphabetical order."""
    while (folder := parent / f"{datetime.now():%Y%m%d-%H%M%S}-{kind}").exists():
        time.sleep(0.1)
    return folder


def sbatch_file(folder: Path, tasks: Sequence[Task], parameters: Mapping[str, Any]) -> str:
    """The text of the file that `submit` would give to sbatch; nothing is written."""
    from submitit.slurm.slurm import _make_sbatch_string

    count: dict[str, Any] = {"map_count": len(tasks)} if len(tasks) > 1 else {}
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder.resolve()))}"
    return _make_sbatch_string(command=command, folder=folder.resolve(), **parameters, **count)


def submit(folder: Path, tasks: Sequence[Task], parameters: Mapping[str, Any]) -> list[str]:
    """Submit all tasks, several as one array; return the numbers of their jobs."""
    from submitit import SlurmExecutor

    executor = SlurmExecutor(folder=folder.resolve(), max_num_timeout=TIMEOUTS)
    executor.update_parameters(**parameters)
    with executor.batch():
        jobs = [executor.submit(task) for task in tasks]
    ids: list[str] = [job.job_id for job in jobs]
    described = [{"id": id, "name": task.name, "argv": task.argv} for id, task in zip(ids, tasks, strict=True)]
    (folder / RECORD).write_text(json.dumps({"resources": parameters, "jobs": described}, indent=1) + "\n")
    return ids


@dataclass(frozen=True)
class Submitted:
    """A job of an earlier submission."""

    folder: Path
    id: str
    name: str

    @property
    def log(self) -> Path:
        """The output of its first task."""
        return self.folder / f"{self.id}_0_log.out"

    def state(self) -> str:
        """Slurm's word for it; UNKNOWN where Slurm has forgotten the job and keeps no accounts."""
        for command in (["squeue", "-h", "-t", "all", "-o", "%T", "-j"], ["sacct", "-n", "-X", "-o", "State%30", "-j"]):
            done = subprocess.run([*command, self.id], capture_output=True, text=True)
            if done.returncode == 0 and done.stdout.strip():
                return done.stdout.split()[0]
        return "UNKNOWN"

    def progress(self) -> str:
        """The last update in its log, or an empty string."""
        from linformer_fairseq.training.progress import parse_line

        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        figures = next(filter(None, map(parse_line, reversed(lines))), None)
        return f"update {figures['num_updates']:.0f}, loss {figures['loss']:.2f}" if figures else ""


def read_submission(parent: Path, folder: Path | None) -> list[Submitted]:
    """The jobs of a submission, of the newest one unless a folder is given; UsageError if there is none."""
    if folder is None:
        found = sorted(parent.glob(f"*/{RECORD}"))
        if not found:
            raise UsageError(f"{parent} holds no submission; --folder says where they are")
        folder = found[-1].parent
    try:
        jobs = json.loads((folder / RECORD).read_text())["jobs"]
    except OSError:
        raise UsageError(f"{folder} is not the folder of a submission: it has no {RECORD}") from None
    return [Submitted(folder, job["id"], job["name"]) for job in jobs]
