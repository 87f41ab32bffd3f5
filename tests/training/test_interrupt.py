"""A training that is asked to leave saves the update it is at, and ends where an undisturbed one ends, to the bit."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.reporting.runs import Run
from linformer_fairseq.training.signals import REQUEUE

FLAGS = ("--max-update", 40, "--num-workers", 1)  # three epochs and a bit
SAVED = re.compile(r"saved (\d+) updates in (\S+); the same command resumes from there")


def leave(process: Any, send: Callable[[int], None], after: int = 4) -> str:
    """Call `send` with the process id once update `after` is in the log; return the whole log."""
    log = ""
    for line in process.stdout:
        log += line
        if f'"num_updates": "{after}"' in line:
            send(process.pid)
    process.wait(timeout=60)
    return log


def to_all(asking: signal.Signals) -> Callable[[int], None]:
    return lambda pid: os.killpg(pid, asking)


def to_one(asking: signal.Signals) -> Callable[[int], None]:
    return lambda pid: os.kill(pid, asking)


def second_rank(pid: int) -> int:
    """The youngest child of a process that starts ranks."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])


def to_the_second_rank(pid: int) -> None:
    os.kill(second_rank(pid), signal.SIGUSR1)


def check(process: Any, log: str, status: int, save_dir: Path) -> int:
    """The log ends with what was saved and how to go on; return the number of updates."""
    assert process.returncode == status, log[-5000:]
    assert "Traceback" not in log, log[-5000:]
    said = SAVED.search(log.strip().splitlines()[-1])
    assert said and Path(said[2]) == save_dir / "checkpoint_last.pt", log[-2000:]
    assert 4 <= int(said[1]) < 40
    return int(said[1])


@pytest.fixture(scope="module")
def whole(finish: Any, train_command: Any, srun: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Undisturbed trainings of one and two processes that save every update."""
    folder = tmp_path_factory.mktemp("whole")
    for processes, (launcher, environment) in ((1, ((), {})), (2, srun)):
        command = train_command(folder / f"{processes}", *FLAGS, "--save-interval-updates", 1, launcher=launcher)
        finish([word for word in command if word != "--no-epoch-checkpoints"], **environment)
    return {processes: folder / f"{processes}" for processes in (1, 2)}


@pytest.fixture
def check_state(same_end: Any, whole: dict[int, Path], tmp_path: Path) -> Callable[[int, int], None]:
    """Assert that what was saved after an update is, bit by bit, the state of an undisturbed training."""

    def updates_in(path: Path) -> int:
        return int(torch.load(path, weights_only=False)["optimizer_history"][-1]["num_updates"])

    def check(processes: int, updates: int) -> None:
        saved = (path for path in whole[processes].glob("checkpoint*.pt") if updates_in(path) == updates)
        same_end(tmp_path / "run", next(saved))

    return check


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "send", "status"),
    [
        (1, to_all(signal.SIGTERM), REQUEUE),
        (1, to_all(signal.SIGINT), 130),
        (2, to_one(signal.SIGUSR2), REQUEUE),
        (2, to_all(signal.SIGTERM), REQUEUE),
        (2, to_one(signal.SIGINT), 130),
        (2, to_all(signal.SIGINT), 130),
        (2, to_the_second_rank, REQUEUE),
    ],
    ids=["TERM all", "Ctrl-C", "2 USR2", "2 TERM all", "2 INT parent", "2 Ctrl-C", "2 USR1 to a rank"],
)
def test_saves(
    processes: int,
    send: Callable[[int], None],
    status: int,
    start: Any,
    train_command: Any,
    check_state: Any,
    parse_losses: Any,
    tmp_path: Path,
) -> None:
    process = start(train_command(tmp_path / "run", *FLAGS, "--distributed-world-size", processes))
    log = leave(process, send)
    saved = check(process, log, status, tmp_path / "run")
    assert saved == parse_losses(log)[-1][0]  # no update is lost
    check_state(processes, saved)


@pytest.mark.slow
def test_one_task_of_srun_hears_it_and_all_go_on(
    start: Any,
    finish: Any,
    train_command: Any,
    check_state: Any,
    parse_losses: Any,
    srun: Any,
    tmp_path: Path,
) -> None:
    launcher, environment = srun
    command = train_command(tmp_path / "run", *FLAGS, launcher=launcher)
    process = start(command, **environment)
    saved = check(process, leave(process, to_the_second_rank), REQUEUE, tmp_path / "run")
    check_state(2, saved)
    assert parse_losses(finish([*command, "--max-update", saved + 1], **environment))[0][0] == saved + 1
    check_state(2, saved + 1)


@pytest.mark.slow
def test_one_process_goes_on(start: Any, finish: Any, train_command: Any, check_state: Any, tmp_path: Path) -> None:
    command = train_command(tmp_path / "run", *FLAGS)
    process = start(command)
    check(process, leave(process, to_one(signal.SIGUSR1)), REQUEUE, tmp_path / "run")
    finish(command)
    check_state(1, 40)
    ends = Run(tmp_path / "run").ends()
    assert list(ends) == [1, 2] and ends[1].startswith("SIGUSR1: ") and ends[2].startswith("done training")


@pytest.mark.slow
def test_torchrun_passes_it_on(start: Any, train_command: Any, check_state: Any, tmp_path: Path) -> None:
    """Its own exit status is 1, whatever the ranks say."""
    launcher = ("torchrun", "--standalone", "--nproc-per-node", 2)
    process = start(train_command(tmp_path / "run", *FLAGS, launcher=launcher))
    log = leave(process, to_one(signal.SIGTERM))
    said = SAVED.search(log)
    assert process.returncode == 1 and said, log[-5000:]
    check_state(2, int(said[1]))


@pytest.mark.slow
def test_twice_stops_at_once(start: Any, train_command: Any, tmp_path: Path) -> None:
    """Even where no update ends any more, because a rank hangs."""
    process = start(train_command(tmp_path / "run", "--max-update", 100000, "--distributed-world-size", 2))

    def send(pid: int) -> None:
        os.kill(second_rank(pid), signal.SIGSTOP)
        os.killpg(pid, signal.SIGINT)
        # The second time counts from a second on; before, it may be the same key press.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        signal.setitimer(signal.ITIMER_REAL, 1.5)
        signal.sigwait({signal.SIGALRM})
        os.killpg(pid, signal.SIGINT)

    log = leave(process, send)
    assert process.returncode == 130, log[-3000:]
    assert "stopping at once, without saving" in log and "Traceback" not in log
    assert not list((tmp_path / "run").glob("*.pt"))


def test_saves_within_a_validation(start: Any, train_command: Any, tiny_data: Path, tmp_path: Path) -> None:
    """It may take longer than a pre-empted job has left. What it finds is still seen."""
    (tmp_path / "dict.txt").symlink_to(tiny_data / "dict.txt")
    for suffix in ("bin", "idx"):
        for split in ("train", "valid"):  # 400 examples: long enough for the signal to come in time
            (tmp_path / f"{split}.{suffix}").symlink_to(tiny_data / f"train.{suffix}")
    validation = ("--batch-size-valid", 1, "--validate-interval-updates", 3)
    command = train_command(tmp_path / "run", "--max-update", 40, *validation)
    words = [tmp_path if word == tiny_data else word for word in command if word != "--disable-validation"]
    process = start(words)
    log = ""
    dry_run = True
    for line in process.stdout:
        log += line
        dry_run &= '"num_updates": "1"' not in line
        if 'begin validation on "valid" subset' in line and not dry_run:
            process.terminate()
    assert process.wait(timeout=60) == REQUEUE, log[-3000:]
    within = log[log.rindex('begin validation on "valid" subset') :]
    assert 0 < within.index("Saved 3 updates") < within.index('"valid_loss"'), within
    assert SAVED.search(log.strip().splitlines()[-1])


def test_before_the_first_update_there_is_nothing_to_save(start: Any, train_command: Any, tmp_path: Path) -> None:
    process = start(train_command(tmp_path / "run", "--max-update", 40))
    log = ""
    for line in process.stdout:
        log += line
        if "num. shared model params" in line:
            process.terminate()
    assert process.wait(timeout=60) == REQUEUE, log[-3000:]
    assert not list((tmp_path / "run").glob("*.pt"))


def test_a_training_ends_with_the_recipe_that_started_it(finish: Any, train_command: Any, tmp_path: Path) -> None:
    """Here that one has ended already: the parent of the training is another process."""
    log = finish(train_command(tmp_path, "--max-update", 1000000), status=REQUEUE, LINFORMER_PARENT="1")
    assert "SIGTERM" in log and "Traceback" not in log
