"""slurm/pretrain.sh on a real Slurm: whatever cuts a job short, it comes back and ends with the same bits."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster import Cluster, wait_for

from linformer_fairseq.commands.launch import main
from linformer_fairseq.launch.submission import read_submission
from linformer_fairseq.training.progress import parse_line

pytestmark = pytest.mark.slow
UPDATES = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the runs of this file."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def train(pretrain: Callable[..., Any]) -> Callable[[Path], Any]:
    """Queue a training of 50 updates, which takes up the whole dataset several times."""
    return lambda save_dir: pretrain(save_dir, "--max-update", UPDATES)


undisturbed: list[Any] = []


@pytest.fixture
def whole(train: Callable[[Path], Any], folder: Path) -> Iterator[Any]:
    """The training that nothing has disturbed, made once."""
    if not undisturbed:
        job = train(folder / "whole")
        job.hold_at(UPDATES)
        assert job.wait_for_end()["JobState"] == "COMPLETED", str(job)
        undisturbed.append(job)
    yield undisturbed[0]


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and their tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def assert_ends_like(job: Any, whole: Any) -> None:
    """The job gets to its end, with the parameters and the optimizer's state of the other."""
    job.hold_at(UPDATES)
    assert job.wait_for_end()["JobState"] == "COMPLETED", str(job)
    ours, theirs = job.checkpoint(), whole.checkpoint()
    assert ours["optimizer_history"][-1]["num_updates"] == UPDATES
    assert same(ours["model"], theirs["model"])
    assert same(ours["last_optimizer_state"]["state"], theirs["last_optimizer_state"]["state"])


def test_two_nodes_with_two_processes_each_train(whole: Any) -> None:
    assert whole.updates() == list(range(1, UPDATES + 1))
    assert whole.state()["NumTasks"] == "4" and whole.state()["NumNodes"] == "2"
    assert "training on 4 devices" in whole.output() and whole.output(3)
    assert "Restarts" in whole.state() and whole.state()["Restarts"] == "0"


def test_with_a_warning_no_update_is_lost(
    whole: Any, train: Callable[[Path], Any], cluster: Cluster, folder: Path
) -> None:
    job = train(folder / "warned")

    def warned(times: int) -> None:
        wait_for(60, lambda: job.output().count("saving after this update") >= times, f"a warning; {job}")

    # Pre-emption: a job of a higher priority wants all nodes.
    job.hold_at(7)
    job.wait_for_update(7)
    other = cluster.run(
        *("sbatch", "--parsable", "-p", "priority", "-N3", "--gres=gpu:2", "-o", "/dev/null"), "--wrap", "sleep 2"
    ).strip()
    warned(1)
    job.hold_at(12)
    job.wait_for_restart(1)
    wait_for(60, lambda: cluster.job(other)["JobState"] == "COMPLETED", "the other job")
    job.hold_at(17)
    job.wait_for_update(17)

    # The time limit is near.
    cluster.run("scontrol", "update", f"jobid={job.id}", "TimeLimit=2")
    warned(2)
    cluster.run("scontrol", "update", f"jobid={job.id}", "TimeLimit=60")
    job.hold_at(22)
    job.wait_for_restart(2)
    job.hold_at(27)
    job.wait_for_update(27)
    assert job.updates() == list(range(1, 28)), "an update was lost"

    # An administrator wants the job elsewhere. Slurm ends srun along with the tasks, so updates may be lost.
    cluster.run("scontrol", "requeue", job.id)
    job.wait_for_restart(3)
    assert_ends_like(job, whole)
    assert job.state()["Restarts"] == "3"


def test_without_a_warning_the_job_comes_back(
    whole: Any, train: Callable[[Path], Any], cluster: Cluster, folder: Path
) -> None:
    job = train(folder / "killed")

    job.hold_at(7)  # saved at 5
    job.wait_for_update(7)
    os.kill(cluster.tasks(job.id)[1], signal.SIGKILL)
    job.wait_for_restart(1)
    assert "task 1 on" in job.log.read_text() and "failed first: Killed" in job.log.read_text()

    job.hold_at(12)
    job.wait_for_update(12)
    for pid in cluster.tasks(job.id).values():
        os.kill(pid, signal.SIGKILL)
    job.wait_for_restart(2)

    job.hold_at(17)
    job.wait_for_update(17)
    node = "127.0.0.2"
    assert cluster.run("scontrol", "show", "hostnames", job.state()["NodeList"]).split() == ["127.0.0.1", node]
    cluster.kill_node(node)
    job.wait_for_restart(3)
    job.hold_at(22)
    job.wait_for_update(22)
    assert node not in cluster.run("scontrol", "show", "hostnames", job.state()["NodeList"]).split()
    cluster.start_node(node)

    cluster.run("scancel", job.id)
    assert job.wait_for_end()["JobState"] == "CANCELLED"
    again = train(folder / "killed")
    assert_ends_like(again, whole)
    updates = again.updates()
    assert set(updates) == set(range(1, UPDATES + 1))
    assert len(updates) - UPDATES <= 4 * 5, "more was lost than the updates since the last checkpoint"


def test_a_process_that_fails_takes_the_job_down_with_its_traceback_shown(
    pretrain: Callable[..., Any], folder: Path
) -> None:
    """The others wait for it in the middle of an update, which they would do for half an hour."""
    size = ["sbatch", "--nodes=2", "--ntasks-per-node=2", "--gres=gpu:2"]
    job = pretrain(folder / "failed", command=size, FAIL="2")
    job.hold_at(1)
    state = job.wait_for_end()
    assert (state["JobState"], state["Restarts"], state["ExitCode"]) == ("FAILED", "0", "1:0")
    log = job.log.read_text()
    shown = log[log.index("task 2 on 127.0.0.2 failed first: Exited with exit code 1") :]
    assert "Traceback (most recent call last)" in shown and "RuntimeError: this process fails" in shown
    wait_for(60, lambda: not job.cluster.tasks(job.id), "the end of all processes")


def test_an_array_of_the_launcher_resumes_after_a_warning(
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
    wait_for(240, lambda: all("update 3" in job.progress() for job in jobs), f"update 3: {jobs[0].state()}")

    cluster.run("scancel", "--signal=USR2", jobs[0].id)
    wait_for(60, lambda: "SIGUSR2: saving after this update" in jobs[0].log.read_text(), "the warning")
    (folder / "hold").write_text("9")
    wait_for(240, lambda: all(job.state() == "COMPLETED" for job in jobs), f"the end; {jobs[0].log.read_text()}")
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
