"""slurm/pretrain.sh on a real Slurm: whatever cuts a job short, it comes back and ends with the same bits."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster import PATIENCE, Cluster, wait_for

from linformer_fairseq.commands.launch import main
from linformer_fairseq.io.files import write_text
from linformer_fairseq.launch.submission import read_submission
from linformer_fairseq.training.progress import parse_line

pytestmark = pytest.mark.slow
UPDATES = 30  # more than an epoch
Train = Callable[[Path], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the runs of this file."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def train(pretrain: Callable[..., Any]) -> Train:
    """Queue a training that takes up the whole dataset."""
    return lambda save_dir: pretrain(save_dir, "--max-update", UPDATES)


@pytest.fixture(scope="module")
def running(train: Train, folder: Path) -> Iterator[dict[str, Future[Any]]]:
    """The three trainings that must end alike. They run at the same time, since each waits for Slurm now and then."""
    with ThreadPoolExecutor() as pool:
        yield {one.__name__: pool.submit(one, train, folder / one.__name__) for one in (whole, warned, killed)}


def ended(job: Any) -> Any:
    """The job, once it has got to its end."""
    job.hold_at(UPDATES)
    assert job.wait_for_end()["JobState"] == "COMPLETED", str(job)
    return job


def whole(train: Train, save_dir: Path) -> Any:
    """A training that nothing disturbs."""
    return ended(train(save_dir))


def warned(train: Train, save_dir: Path) -> Any:
    """A training that Slurm ends three times, with a signal before."""
    job = train(save_dir)

    def wait_for_warning(times: int) -> None:
        said = "saving after this update"
        wait_for(PATIENCE, lambda: job.output().count(said) >= times, f"a warning; {job}")

    # Pre-emption: a job of a higher priority wants its nodes.
    job.hold_at(7)
    job.wait_for_update(7)
    ask = ["sbatch", "--parsable", "-p", "priority", "--nodelist", job.state()["NodeList"], "--gres=gpu:2"]
    other = job.cluster.run(*ask, "-N2", "-o", "/dev/null", "--wrap", "sleep 2").strip()
    wait_for_warning(1)
    job.hold_at(12)
    job.wait_for_restart(1)
    wait_for(PATIENCE, lambda: job.cluster.job(other)["JobState"] == "COMPLETED", "the other job")
    job.hold_at(17)
    job.wait_for_update(17)

    # The time limit is near.
    job.cluster.run("scontrol", "update", f"jobid={job.id}", "TimeLimit=2")
    wait_for_warning(2)
    job.cluster.run("scontrol", "update", f"jobid={job.id}", "TimeLimit=60")
    job.hold_at(22)
    job.wait_for_restart(2)
    job.hold_at(27)
    job.wait_for_update(27)
    assert job.updates() == list(range(1, 28)), "an update was lost"

    # An administrator wants the job elsewhere. Slurm ends srun along with the tasks, so updates may be lost.
    job.cluster.run("scontrol", "requeue", job.id)
    job.wait_for_restart(3)
    return ended(job)


def killed(train: Train, save_dir: Path) -> Any:
    """A training whose processes, and one of whose nodes, die; it is cancelled and submitted again."""
    job = train(save_dir)
    job.hold_at(7)  # saved at 5
    job.wait_for_update(7)
    os.kill(job.cluster.tasks(job.id)[1], signal.SIGKILL)
    job.wait_for_restart(1)
    assert "task 1 on" in job.log.read_text() and "failed first: Killed" in job.log.read_text()

    job.hold_at(12)
    job.wait_for_update(12)
    for pid in job.cluster.tasks(job.id).values():
        os.kill(pid, signal.SIGKILL)
    job.wait_for_restart(2)

    job.hold_at(17)
    job.wait_for_update(17)
    _, node = job.nodes()
    job.cluster.kill_node(node)
    job.wait_for_restart(3)
    job.hold_at(22)
    job.wait_for_update(22)
    assert node not in job.nodes()
    job.cluster.start_node(node)

    job.cluster.run("scancel", job.id)
    assert job.wait_for_end()["JobState"] == "CANCELLED"
    return ended(train(save_dir))


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and their tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def assert_ends_like(job: Any, whole: Any) -> None:
    """The job has ended with the parameters and the optimizer's state of the other."""
    ours, theirs = job.checkpoint(), whole.checkpoint()
    assert ours["optimizer_history"][-1]["num_updates"] == UPDATES
    assert same(ours["model"], theirs["model"])
    assert same(ours["last_optimizer_state"]["state"], theirs["last_optimizer_state"]["state"])


def test_an_array_of_the_launcher_resumes_after_a_warning(
    running: object,  # meanwhile
    cluster: Cluster,
    tiny_data: Path,
    tiny_flags: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in {**cluster.environ, "HOLD": f"{folder}/hold", "SITE": "none", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    (folder / "hold").write_text("3")
    command = ["--recipe", "tiny_n512_k128", "--data", str(tiny_data), "--save-dir", str(folder / "sweep")]
    command += ["--nodes", "1", "--gpus", "2", "--cpus", "1", "--free-gb", "0", "--folder", str(folder / "submissions")]
    command = ["pretrain", *command, "--sweep", "common.seed=1,2", "--", *tiny_flags, "--max-update", "9"]
    assert main(command) == 0
    jobs = read_submission(folder / "submissions", None)
    wait_for(PATIENCE, lambda: all("update 3" in job.progress() for job in jobs), f"update 3: {jobs[0].state()}")

    cluster.run("scancel", "--signal=USR2", jobs[0].id)
    wait_for(PATIENCE, lambda: "SIGUSR2: saving after this update" in jobs[0].log.read_text(), "the warning")
    write_text(folder / "hold", "9")
    wait_for(PATIENCE, lambda: all(job.state() == "COMPLETED" for job in jobs), f"the end; {jobs[0].log.read_text()}")
    assert cluster.job(jobs[0].id)["Restarts"] == "1" and cluster.job(jobs[1].id)["Restarts"] == "0"
    for job in jobs:
        figures = [parse_line(line) for line in job.log.read_text().splitlines()]
        updates = [found["num_updates"] for found in figures if found and found["split"] == "train"]
        assert updates == list(range(1, 10))
        assert (folder / "sweep" / job.name / "checkpoint_last.pt").exists()

    capfd.readouterr()
    assert main(["status", "--folder", str(folder / "submissions")]) == 0
    assert f"{jobs[0].id}  COMPLETED   seed=1  update 9, loss" in capfd.readouterr().out
    # --dry-run shows what submitit has submitted, but for the folder's name
    assert main([command[0], "--dry-run", *command[1:]]) == 0
    shown = re.sub(r"\d{8}-\d{6}-pretrain", jobs[0].folder.name, capfd.readouterr().out)
    submitted = (jobs[0].folder / f"{jobs[0].id.split('_')[0]}_submission.sh").read_text()
    assert shown.strip() == submitted.strip()


def test_a_process_that_fails_takes_the_job_down_with_its_traceback_shown(
    running: object,  # meanwhile
    pretrain: Callable[..., Any],
    folder: Path,
) -> None:
    """The others wait for it in the middle of an update, which they would do for half an hour."""
    size = ["sbatch", "--nodes=2", "--ntasks-per-node=2", "--gres=gpu:2"]
    job = pretrain(folder / "failed", command=size, FAIL="2")
    job.hold_at(1)
    job.wait_for_update(1)
    job.hold_at(2)
    state = job.wait_for_end()
    assert (state["NumNodes"], state["NumTasks"]) == ("2", "4")
    assert "training on 4 devices" in job.output() and job.output(3) and job.updates() == [1]
    assert (state["JobState"], state["Restarts"], state["ExitCode"]) == ("FAILED", "0", "1:0")
    log = job.log.read_text()
    shown = log[log.index(f"task 2 on {job.nodes()[1]} failed first: Exited with exit code 1") :]
    assert "Traceback (most recent call last)" in shown and "RuntimeError: this process fails" in shown
    wait_for(PATIENCE, lambda: not job.cluster.tasks(job.id), "the end of all processes")


def test_two_nodes_train(running: dict[str, Future[Any]]) -> None:
    job = running["whole"].result()
    assert job.updates() == list(range(1, UPDATES + 1))
    assert job.state()["NumTasks"] == "2" and job.state()["NumNodes"] == "2"
    assert "training on 2 devices" in job.output() and job.output(1)
    assert job.state()["Restarts"] == "0"


def test_with_a_warning_no_update_is_lost(running: dict[str, Future[Any]]) -> None:
    job = running["warned"].result()
    assert_ends_like(job, running["whole"].result())
    assert job.state()["Restarts"] == "3"


def test_without_a_warning_the_job_comes_back(running: dict[str, Future[Any]]) -> None:
    job = running["killed"].result()
    assert_ends_like(job, running["whole"].result())
    updates = job.updates()
    assert set(updates) == set(range(1, UPDATES + 1))
    assert len(updates) - UPDATES <= 4 * 5, "more was lost than the updates since the last checkpoint"
