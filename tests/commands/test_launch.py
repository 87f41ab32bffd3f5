"""The launcher without Slurm: what it would submit, sweeps, the same work on this machine, and its refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from linformer_fairseq.commands import glue as finetune_glue
from linformer_fairseq.commands.launch import combinations, finetune, main, parser, run_here
from linformer_fairseq.errors import UsageError, exit_status
from linformer_fairseq.launch.submission import Submitted, Task, new_folder, read_submission


@pytest.fixture
def pretrain(tiny_data: Path, tmp_path: Path) -> list[str]:
    """The command for a small pretraining."""
    places = ["--data", str(tiny_data), "--save-dir", str(tmp_path / "runs"), "--free-gb", "0"]
    return ["pretrain", "--recipe", "tiny_n512_k128", *places, "--folder", str(tmp_path / "submissions")]


def test_a_sweep_is_every_combination() -> None:
    sweep = combinations(["model.projected_length=64,128", "common.seed=1,2"])
    assert [list(changes.values()) for changes in sweep] == [[64, 1], [64, 2], [128, 1], [128, 2]]
    assert combinations([]) == [{}]


@pytest.mark.parametrize("given", ["seed=1", "common.seed", "common.seed=1,", "common.seed="])
def test_a_sweep_that_is_none(given: str) -> None:
    with pytest.raises(UsageError, match=f"--sweep {given}: give it as SECTION.KEY=VALUE,VALUE"):
        combinations([given])


def test_a_wrong_key_of_a_sweep_is_found_before_anything_is_queued(pretrain: list[str]) -> None:
    with pytest.raises(UsageError, match="common.sead: unknown key"):
        main([*pretrain, "--dry-run", "--sweep", "common.sead=1,2"])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("task.data=a,b", "--data sets task.data"),
        ("checkpoint.save_dir=a,b", "--save-dir sets checkpoint.save_dir"),
        ("common.seed=1,1", "seed=1 cannot be the folder"),
        ("checkpoint.restore_file=a/../../../b,c", "cannot be the folder"),
    ],
)
def test_a_sweep_whose_runs_would_not_differ_or_leave_their_folder(pretrain: list[str], given: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        main([*pretrain, "--dry-run", "--sweep", given])


def test_the_sbatch_file_of_a_sweep(
    pretrain: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site.sh"
    site.touch()
    monkeypatch.setenv("SITE", str(site))
    asked = ["--nodes", "2", "--gpus", "4", "--hours", "1.5", "--partition", "long", "--parallel", "2"]
    assert main([*pretrain, "--dry-run", *asked, "--sweep", "common.seed=1,2,3"]) == 0
    file = capsys.readouterr().out
    for flag in (
        *("nodes=2", "ntasks-per-node=4", "gres=gpu:4", "time=90", "partition=long", "array=0-2%2"),
        *("signal=USR2@120", "requeue", "open-mode=append", "job-name=pretrain"),
    ):
        assert f"#SBATCH --{flag}\n" in file
    assert f"source {site}\n" in file and "srun" in file and "--kill-on-bad-exit=1" in file
    assert not (tmp_path / "runs").exists() and not (tmp_path / "submissions").exists()


def test_data_preparation_as_an_array(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "folder", "input=texts", "--out", "data-run", "--copies", "3", "--dry-run"]) == 0
    file = capsys.readouterr().out
    assert "#SBATCH --array=0-2%3\n" in file and "gres" not in file


def test_fine_tuning_shares_its_runs_among_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["finetune", "--copies", "2", "--checkpoint", "c.pt", "--glue-dir", "glue", "--tasks", "RTE"]
    command += ["--out", "o"]
    assert main([*command, "--dry-run"]) == 0
    file = capsys.readouterr().out
    assert "#SBATCH --array=0-1%2\n" in file and "#SBATCH --gres=gpu:1\n" in file
    arguments, more = parser().parse_known_args(command)
    for task in finetune(arguments, more):
        assert task.argv[2:5] == ("-m", "linformer_fairseq", "glue")
        glue = finetune_glue.parser().parse_args(task.argv[5:])
        assert (glue.tasks, glue.out) == ("RTE", Path("o"))


def test_the_path_of_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["script", "pretrain"]) == 0
    assert "#SBATCH" in Path(capsys.readouterr().out.strip()).read_text()


def test_unknown_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["status", "--fast"])
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


def test_copies_of_one_command_run_once_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("linformer_fairseq.commands.launch.signal.signal", lambda *_: None)
    command = (sys.executable, "-c", f"open({str(tmp_path / 'runs')!r}, 'a').write('x')")
    assert run_here([Task("copy 1", command), Task("copy 2", command)]) == 0
    assert (tmp_path / "runs").read_text() == "x"


@pytest.mark.slow
def test_a_run_of_a_sweep_on_this_machine_without_slurm(
    pretrain: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("linformer_fairseq.commands.launch.shutil.which", lambda program: None)
    handler = signal.getsignal(signal.SIGINT)
    flags = ["--max-update", "2", "--batch-size", "4", "--tokens-per-sample", "64", "--encoder-layers", "1"]
    sweep = ["--sweep", "model.projected_length=8", "common.seed=3"]
    assert main([*pretrain, *sweep, "--", *flags, "--disable-validation"]) == 0
    signal.signal(signal.SIGINT, handler)
    assert (tmp_path / "runs/projected_length=8,seed=3/checkpoint_last.pt").exists()
    assert "done training" in capfd.readouterr().out


def test_a_failure_on_this_machine_is_passed_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handler = signal.getsignal(signal.SIGINT)
    command = ["prepare", "folder", f"input={tmp_path / 'absent'}", "--copies", "1", "--local"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    signal.signal(signal.SIGINT, handler)
    assert "exit status 1" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "no-such-configuration", "--out", "out"], "no-such-configuration: no such file"),
        (["prepare", "folder", "input=x", "split.valid=2", "--out", "out"], "--valid 2.0: must be at least 0"),
        (["finetune", "--checkpoint", "c.pt", "--glue-dir", "g", "--out", "out", "--lr", "nan"], "--lr: nan: must be"),
        (["pretrain", "--save-dir", "runs", "--", "--no-such-flag"], "--no-such-flag"),
    ],
)
def test_what_the_jobs_would_not_take_is_refused_before_they_wait(
    words: list[str], message: str, pretrain: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*pretrain, *words[3:]] if words[0] == "pretrain" else words
    with pytest.raises((UsageError, SystemExit)) as refused:
        main([*words, "--dry-run"] if words[0] != "pretrain" else words)
    assert message in str(refused.value) + capsys.readouterr().err


def test_without_submitit_the_remedy_is_named(
    pretrain: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("submitit.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert exit_status("linformer launch", partial(main, [*pretrain, "--dry-run"])) == 1
    assert "the package submitit is missing: pip install -e '.[slurm]' from a clone" in capsys.readouterr().err


def test_every_submission_has_a_folder_of_its_own(tmp_path: Path) -> None:
    first = new_folder(tmp_path, "pretrain")
    first.mkdir()
    second = new_folder(tmp_path, "pretrain")
    assert second != first and not second.exists()


def test_the_newest_submission_or_the_one_that_is_named(tmp_path: Path) -> None:
    for name, job in (("20200101-000000-pretrain", "1"), ("20200102-000000-prepare", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "submission.json").write_text(json.dumps({"jobs": [{"id": job, "name": "a"}]}))
    assert [job.id for job in read_submission(tmp_path, None)] == ["2"]
    assert [job.id for job in read_submission(tmp_path, tmp_path / "20200101-000000-pretrain")] == ["1"]


def test_no_submission(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no submission; --folder says"):
        read_submission(tmp_path, None)
    with pytest.raises(UsageError, match="not the folder of a submission"):
        read_submission(tmp_path, tmp_path)


def test_where_slurm_has_forgotten_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("squeue", "sacct"):
        (tmp_path / program).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert Submitted(tmp_path, "7", "a").state() == "UNKNOWN"


def test_cancel_and_logs_of_a_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "20200101-000000-pretrain"
    folder.mkdir()
    jobs = [{"id": "7_0", "name": "seed=1"}, {"id": "7_1", "name": "seed=2"}]
    (folder / "submission.json").write_text(json.dumps({"jobs": jobs}))
    (folder / "7_0_0_log.out").write_text("one\ntwo\n")
    (tmp_path / "scancel").write_text('#!/bin/sh\necho "cancelled $@"\n')
    (tmp_path / "scancel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["cancel", "--folder", str(tmp_path)]) == 0
    assert main(["logs", "--folder", str(tmp_path)]) == 0
    assert capfd.readouterr().out == "cancelled 7_0 7_1\nseed=1: one\nseed=1: two\n"


# --- what submitit runs


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    calls: list[str] = []
    monkeypatch.setattr("linformer_fairseq.launch.submission._hand_over", lambda: calls.append("handed over"))
    handler = signal.getsignal(signal.SIGTERM)
    yield calls
    signal.signal(signal.SIGTERM, handler)


def test_a_task_that_fails_says_so(handed_over: list[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        Task("a", (sys.executable, "-c", "raise SystemExit(3)"))()
    Task("a", (sys.executable, "-c", ""))()
    assert handed_over == []


@pytest.mark.parametrize("ending", ["raise SystemExit(75)", "import os, signal; os.kill(os.getpid(), signal.SIGUSR2)"])
def test_a_command_that_was_warned_is_handed_over(handed_over: list[str], ending: str) -> None:
    with pytest.raises(subprocess.CalledProcessError):  # Slurm would have ended it by now
        Task("a", (sys.executable, "-c", ending))()
    assert handed_over == ["handed over"]


def test_the_checkpoint_waits_until_the_training_has_saved(tmp_path: Path, handed_over: list[str]) -> None:
    """submitit calls it from the handler of SIGUSR2, in the middle of the wait for the program."""
    saved = tmp_path / "saved"
    program = (
        "import os, pathlib, signal, sys, time\n"
        f"save = lambda *_: (time.sleep(0.3), pathlib.Path({str(saved)!r}).touch(), sys.exit(0))\n"
        "signal.signal(signal.SIGUSR2, save)\n"
        "os.kill(os.getppid(), signal.SIGUSR2)\n"
        "time.sleep(60)\n"
    )
    task = Task("a", (sys.executable, "-c", program))
    left: list[object] = []
    before = signal.signal(signal.SIGUSR2, lambda *_: left.append((task.checkpoint().function, saved.exists())))
    task()
    signal.signal(signal.SIGUSR2, before)
    assert left == [(task, True)]
