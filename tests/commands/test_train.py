"""`linformer train`: a recipe becomes a command of fairseq-train, and wrong arguments one sentence."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from linformer_fairseq import cli
from linformer_fairseq.paths import RECIPES


def test_the_command_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "tiny_n512_k128", "DATA", "--save-dir", "RUN", "--dry-run", "--", "--max-update", "3"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("fairseq-train DATA ") and printed.endswith(" --max-update 3\n")


@pytest.mark.parametrize(
    ("recipe", "data", "sentence"),
    [
        ("none.yaml", ".", "RECIPE=none.yaml is neither a file nor one of base_n4096_k256, "),
        ("tiny_n512_k128", "nowhere", "DATA nowhere is not a folder: give one written by `linformer prepare binarize`"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    recipe: str, data: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", recipe, data, "--save-dir", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"linformer train: error: {sentence}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "command", ["train tiny_n512_k128 . --save-dir RUN", "plan tiny_n512_k128", "launch pretrain --save-dir RUN"]
)
def test_no_command_takes_a_user_dir_that_is_not_there(
    command: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data", str(tiny_data)] if "launch" in command else []
    assert cli.main([*command.split(), *data, "--", "--user-dir", "linformer_farseq"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: --user-dir linformer_farseq: has no __init__.py that imports linformer_fairseq" in line


def test_a_folder_without_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "tiny_n512_k128", str(tmp_path), "--save-dir", str(tmp_path / "run")]) == 1
    assert f"DATA {tmp_path} has no dict.txt: give one written by" in capsys.readouterr().err


def test_the_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in (RECIPES / "pretrain").glob("*.yaml"))
    assert all("linformer_roberta" in line for line in lines)


def test_incomplete_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        cli.main(["train", "tiny_n512_k128"])
    assert refused.value.code == 2 and "--save-dir are required" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_saves_what_was_trained(tiny_data: Path, tmp_path: Path) -> None:
    """fairseq-train takes the place of the command, so that it has the time to save."""
    command = [sys.executable, "-m", "linformer_fairseq", "train", "tiny_n512_k128", str(tiny_data)]
    flags = ["--save-dir", str(tmp_path), "--", "--max-update", "500", "--log-interval", "1", "--cpu"]
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        assert any("train_inner" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode == 130, said
    assert (tmp_path / "checkpoint_last.pt").exists()
