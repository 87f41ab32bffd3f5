"""A submission through submitit: what each of its tasks runs, a folder with what was submitted, the state of its jobs.

submitit listens to SIGUSR2 (NCCL uses SIGUSR1), asks the task with `checkpoint()` for what remains to be done, which is
the same command, and requeues the job.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import write_json
from linformer_fairseq.io.processes import child_environment
from linformer_fairseq.launch.job import still_ours
from linformer_fairseq.launch.rank import WARNINGS
from linformer_fairseq.paths import CLONE
from linformer_fairseq.training.signals import REQUEUE

RECORD = "submission.json"
LIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "PREEMPTED", "SUSPENDED", "UNKNOWN")
_running: subprocess.Popen[bytes] | None = None


@dataclass(frozen=True)
class Task:
    """A command that resumes when it is started again, whether it saves its state on a signal or is ended by it."""

    name: str
    argv: tuple[str, ...]

    def __call__(self) -> None:
        """Run it to its end, or until submitit requeues the job; CalledProcessError if it fails."""
        global _running
        with subprocess.Popen(self.argv, env=child_environment()) as running:
            _running = running
            signal.signal(signal.SIGTERM, lambda number, frame: running.send_signal(number))
            status = running.wait()
        if status == REQUEUE or -status in WARNINGS:  # some clusters signal the program too
            _hand_over()
        if status:
            raise subprocess.CalledProcessError(status, self.argv)

    def checkpoint(self) -> Any:
        """What remains to be done, once the command has ended."""
        from submitit.helpers import DelayedSubmission

        if _running is not None and _running.returncode is None:
            _running.send_signal(signal.SIGUSR2)
            # This is inside a signal handler, which may have interrupted `running.wait()`.
            os.waitid(os.P_PID, _running.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(self)


def _hand_over() -> None:
    """Let submitit requeue the job unless it was cancelled. Only the first process does that."""
    if os.environ.get("SLURM_PROCID", "0") == "0" and still_ours(os.environ):
        os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(120)  # Slurm ends this process
    os._exit(REQUEUE)


def slurm_parameters(a: argparse.Namespace) -> dict[str, Any]:
    """What each job asks for, by submitit's names."""
    site = Path(os.environ.get("SITE") or (CLONE or Path()) / "slurm/site.sh")
    setup = [f"source {shlex.quote(str(site.resolve()))}"] if site.is_file() else []
    if CLONE:
        setup.append(f"export PYTHONPATH={shlex.quote(str(CLONE))}:${{PYTHONPATH:-}}")
    return {
        "job_name": a.command,
        "time": round(a.hours * 60),
        "nodes": a.nodes,
        "ntasks_per_node": max(1, a.gpus) if a.command == "pretrain" else 1,
        "cpus_per_task": a.cpus,
        "gres": f"gpu:{a.gpus}" if a.gpus else None,
        "partition": a.partition,
        "account": a.account,
        "array_parallelism": a.parallel,
        "signal_delay_s": 120,  # from the warning to the end: time for one update and a checkpoint
        "stderr_to_stdout": True,
        "setup": setup,
        # from Slurm 22.05 on, srun does not take --cpus-per-task over from sbatch
        "srun_args": ["--kill-on-bad-exit=1", "--open-mode=append", f"--cpus-per-task={a.cpus}"],
        "additional_parameters": {"requeue": True},
    }


def new_folder(parent: Path, kind: str) -> Path:
    """The name of a folder that does not exist yet; the newest is the last in alphabetical order.

    submitit names its files after job numbers, which start again from 1 on a cluster that is set up again.
    """
    while (folder := parent / f"{datetime.now():%Y%m%d-%H%M%S}-{kind}").exists():
        time.sleep(0.1)
    return folder


def sbatch_file(folder: Path, tasks: Sequence[Task], parameters: Mapping[str, Any]) -> str:
    """The text of the file that `submit` would give to sbatch; nothing is written."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder = folder.resolve()
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return _make_sbatch_string(command, folder, map_count=len(tasks) if len(tasks) > 1 else None, **parameters)


class Submitted(NamedTuple):
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


def submit(folder: Path, tasks: Sequence[Task], parameters: Mapping[str, Any]) -> list[Submitted]:
    """Submit all tasks, several as one array."""
    from submitit import SlurmExecutor

    executor = SlurmExecutor(folder.resolve(), max_num_timeout=1000)  # how often a job may reach its time limit
    executor.update_parameters(**parameters)
    with executor.batch():
        jobs = [executor.submit(task) for task in tasks]
    recorded = [{"id": job.job_id, **asdict(task)} for job, task in zip(jobs, tasks, strict=True)]
    write_json(folder / RECORD, {"resources": parameters, "jobs": recorded})
    return read_submission(folder.parent, folder)


def read_submission(parent: Path, folder: Path | None) -> list[Submitted]:
    """The jobs of a submission, of the newest one unless a folder is given; UsageError if there is none."""
    if folder is None:
        if not (found := sorted(parent.glob(f"*/{RECORD}"))):
            raise UsageError(f"{parent} holds no submission; --folder says where they are")
        folder = found[-1].parent
    if not (folder / RECORD).exists():
        raise UsageError(f"{folder} is not the folder of a submission: it has no {RECORD}")
    jobs = json.loads((folder / RECORD).read_text())["jobs"]
    return [Submitted(folder, job["id"], job["name"]) for job in jobs]
