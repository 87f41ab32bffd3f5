"""A real Slurm for the tests that need one, and trainings in it that stop where a test wants them to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.io.files import write_text
from linformer_fairseq.training.progress import parse_line

sys.path.insert(0, str(Path(__file__).parent))
from cluster import PATIENCE, Cluster, missing, wait_for  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
# For --user-dir: the project, with a trainer that waits before each update that the file HOLD does not allow yet. The
# process with the rank FAIL fails in its second update.
HOLDING = """
import os, time
from linformer_fairseq.plugin import register
register()
from fairseq.trainer import Trainer

train_step = Trainer.train_step

def hold_then_step(self, *args, **kwargs):
    while self.get_num_updates() >= int(open(os.environ["HOLD"]).read()):
        time.sleep(0.05)
    if os.environ.get("FAIL") == os.environ["SLURM_PROCID"] and self.get_num_updates():
        raise RuntimeError("this process fails")
    return train_step(self, *args, **kwargs)

Trainer.train_step = hold_then_step
"""
TINY = [
    *("--batch-size", "4", "--tokens-per-sample", "64", "--encoder-layers", "1", "--projected-length", "16"),
    *("--num-workers", "1", "--log-interval", "1", "--save-interval-updates", "5", "--disable-validation"),
    # With these, random numbers must resume, too. Without the last, DDP sorts its buckets anew after the first update
    # of each start, and sums over more than two processes round differently.
    *("--dropout", "0.1", "--attention-dropout", "0.1", "--find-unused-parameters"),
]
LIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")


@dataclass
class Job:
    """A submission of slurm/pretrain.sh, once or more often, into one folder."""

    cluster: Cluster
    id: str
    save_dir: Path
    log: Path

    def hold_at(self, update: int) -> None:
        """Let the training continue up to this update."""
        write_text(self.save_dir.with_suffix(".hold"), str(update))

    def output(self, rank: int = 0) -> str:
        """What a process has printed, in all starts."""
        file = self.save_dir / f"logs/rank-{rank}.log"
        return file.read_text() if file.exists() else ""

    def updates(self) -> list[int]:
        """The updates in the log of rank 0, in order of time; some come twice where work was lost."""
        found = [parse_line(line) for line in self.output().splitlines()]
        return [int(figures["num_updates"]) for figures in found if figures and figures["split"] == "train"]

    def wait_for_update(self, update: int) -> None:
        """Wait until it has been made."""
        wait_for(PATIENCE, lambda: update in self.updates(), f"update {update}; {self}")

    def wait_for_restart(self, count: int) -> None:
        """Wait until Slurm has put the job back into the queue for the `count`-th time."""
        wait_for(PATIENCE, lambda: self.state()["Restarts"] == str(count), f"restart {count}; {self}")

    def wait_for_end(self) -> dict[str, str]:
        """Wait until Slurm is done with it; what Slurm knows of it then."""
        wait_for(PATIENCE, lambda: self.state()["JobState"] not in LIVE, f"the end; {self}")
        return self.state()

    def state(self) -> dict[str, str]:
        """What Slurm knows of it."""
        return self.cluster.job(self.id)

    def nodes(self) -> list[str]:
        """The names of its nodes."""
        return self.cluster.run("scontrol", "show", "hostnames", self.state()["NodeList"]).split()

    def __str__(self) -> str:
        log = self.log.read_text()[-3000:] if self.log.exists() else ""
        return f"{self.state()['JobState']}\n{log}\n{self.output()[-3000:]}"

    def checkpoint(self) -> dict[str, Any]:
        """The last checkpoint, read with nothing but PyTorch."""
        state: dict[str, Any] = torch.load(self.save_dir / "checkpoint_last.pt", weights_only=False)
        return state


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Eight nodes with two GPUs each, so that several jobs can run at the same time."""
    if reason := missing():
        pytest.skip(reason)
    running = Cluster(nodes=8, gpus=2)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def job_environment(tiny_data: Path) -> Callable[[Path], dict[str, str]]:
    """The environment of a tiny training on two nodes of its own with a process each, for its save_dir."""

    def environment(save_dir: Path) -> dict[str, str]:
        return {
            **{"RECIPE": "tiny_n512_k128", "DATA": str(tiny_data), "SAVE_DIR": str(save_dir), "FREE_GB": "0.1"},
            **{"NODES": "2", "GPUS": "1", "PYTHON": sys.executable, "SITE": "none", "OMP_NUM_THREADS": "1"},
            **{"PYTHONPATH": str(ROOT), "SBATCH_OUTPUT": f"{save_dir}.log", "SBATCH_EXCLUSIVE": "exclusive"},
        }

    return environment


@pytest.fixture(scope="session")
def tiny_flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of fairseq-train for a small model that holds where $HOLD says."""
    user_dir = tmp_path_factory.mktemp("user") / "holding"
    user_dir.mkdir()
    (user_dir / "__init__.py").write_text(HOLDING)
    return [*TINY, "--user-dir", str(user_dir)]


@pytest.fixture(scope="session")
def pretrain(
    cluster: Cluster, job_environment: Callable[[Path], dict[str, str]], tiny_flags: list[str]
) -> Iterator[Callable[..., Job]]:
    """Queue slurm/pretrain.sh: `pretrain(save_dir, "--max-update", 9)`; it holds at once, until told otherwise.

    `command` goes before the script, such as `["sbatch", "--nodes=2"]`; otherwise the script calls sbatch itself.
    """
    jobs: list[Job] = []

    def submit(save_dir: Path, *flags: object, command: Sequence[str] = (), **env: str) -> Job:
        job = Job(cluster, "", save_dir, save_dir.with_suffix(".log"))
        if not save_dir.with_suffix(".hold").exists():
            job.hold_at(0)
        environ = {**job_environment(save_dir), "HOLD": f"{save_dir}.hold", **env}
        said = cluster.run(*command, ROOT / "slurm/pretrain.sh", *tiny_flags, *flags, env=environ, cwd=ROOT)
        job.id = said.split()[-1]
        jobs.append(job)
        return job

    yield submit
    for job in jobs:
        cluster.run("scancel", job.id, check=False)
