"""One submission through submitit: a folder of its own with what was submitted, and what has become of it.

A folder is never used twice: submitit names its files by the number of the job, and a cluster that was set up anew
counts from 1 again.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.launch.work import Work
from linformer_fairseq.paths import CLONE
from linformer_fairseq.training.progress import parse_line

RECORD = "submission.json"
WARNING_S = 120  # from the warning to the end: time for one update and a checkpoint
TIMEOUTS = 1000  # how often a job may run into its time limit and go on
LIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "PREEMPTED", "SUSPENDED", "UNKNOWN")


@dataclass(frozen=True)
class Part:
    """One job, or one element of an array."""

    name: str
    work: Work


@dataclass(frozen=True)
class Resources:
    """What each job asks for."""

    name: str
    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    cpus_per_task: int
    minutes: int
    parallel: int = 256
    """Elements of an array that may run at once."""
    partition: str | None = None
    account: str | None = None

    def parameters(self) -> dict[str, Any]:
        """The same in submitit's words."""
        setup = [f"export PYTHONPATH={shlex.quote(str(CLONE))}:${{PYTHONPATH:-}}"]
        site = Path(os.environ.get("SITE", CLONE / "slurm/site.sh")).resolve()
        if site.is_file():
            setup.insert(0, f"source {shlex.quote(str(site))}")
        given = {
            "job_name": self.name,
            "time": self.minutes,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks_per_node,
            "cpus_per_task": self.cpus_per_task,
            "gres": f"gpu:{self.gpus_per_node}" if self.gpus_per_node else None,
            "partition": self.partition,
            "account": self.account,
            "array_parallelism": self.parallel,
            "signal_delay_s": WARNING_S,
            "stderr_to_stdout": True,
            "setup": setup,
            # from Slurm 22.05 on, srun does not take --cpus-per-task over from sbatch
            "srun_args": ["--kill-on-bad-exit=1", "--open-mode=append", f"--cpus-per-task={self.cpus_per_task}"],
            "additional_parameters": {"requeue": True},
        }
        return {name: value for name, value in given.items() if value is not None}


def import_submitit() -> Any:
    """The package submitit, which only submissions need.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import submitit
    except ImportError:
        raise UsageError(
            "submitit is not installed: pip install 'linformer-fairseq[slurm]', or use --local or sbatch"
        ) from None
    return submitit


def new_folder(parent: Path, kind: str) -> Path:
    """The name of a folder that does not exist yet; the newest of a kind is the last in alphabetical order."""
    while True:
        folder = parent / f"{datetime.now():%Y%m%d-%H%M%S}-{kind}"
        if not folder.exists():
            return folder
        time.sleep(0.1)


def sbatch_file(folder: Path, parts: Sequence[Part], resources: Resources) -> str:
    """The text of the file that `submit` would give to sbatch; nothing is written."""
    import_submitit()
    from submitit.slurm.slurm import _make_sbatch_string

    count: dict[str, Any] = {"map_count": len(parts)} if len(parts) > 1 else {}
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder.resolve()))}"
    return _make_sbatch_string(command=command, folder=folder.resolve(), **resources.parameters(), **count)


def submit(folder: Path, parts: Sequence[Part], resources: Resources) -> list[str]:
    """Submit all parts, several as one array; return the numbers of their jobs."""
    executor = import_submitit().SlurmExecutor(folder=folder.resolve(), max_num_timeout=TIMEOUTS)
    executor.update_parameters(**resources.parameters())
    with executor.batch():
        jobs = [executor.submit(part.work) for part in parts]
    ids: list[str] = [job.job_id for job in jobs]
    described = [
        {"id": job, "name": part.name, "argv": list(part.work.argv)} for job, part in zip(ids, parts, strict=True)
    ]
    record = {"resources": asdict(resources), "jobs": described}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return ids


@dataclass(frozen=True)
class Submitted:
    """A job of an earlier submission."""

    folder: Path
    id: str
    name: str

    @property
    def log(self) -> Path:
        """What its first task prints."""
        return self.folder / f"{self.id}_0_log.out"

    def state(self) -> str:
        """Slurm's word for it; UNKNOWN where Slurm has forgotten the job and keeps no accounts."""
        for command in (["squeue", "-h", "-t", "all", "-o", "%T", "-j"], ["sacct", "-n", "-X", "-o", "State%30", "-j"]):
            done = subprocess.run([*command, self.id], capture_output=True, text=True)
            if done.returncode == 0 and done.stdout.strip():
                return done.stdout.split()[0]
        return "UNKNOWN"

    def progress(self) -> str:
        """The last update that its log tells of, or nothing."""
        if not self.log.exists():
            return ""
        for line in reversed(self.log.read_text(errors="replace").splitlines()):
            if figures := parse_line(line):
                return f"update {figures['num_updates']:.0f}, loss {figures['loss']:.2f}"
        return ""


def read_submission(parent: Path, folder: Path | None) -> list[Submitted]:
    """The jobs of a submission, of the newest one unless a folder is given.

    Raises:
        UsageError: there is none.
    """
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
