"""`linformer distill`: the command of fairseq-train for a teacher and a student, and what it trains."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary

from linformer_fairseq import cli
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, complete_settings, read, symbols, write
from linformer_fairseq.checkpoints.warm_start import to_linformer
from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel


@pytest.fixture
def models(tiny_data: Path, tmp_path: Path) -> list[str]:
    """Teacher and student of 32 positions, the student with 8 slots and a window of 2."""
    size = len(Dictionary.load(str(tiny_data / "dict.txt"))) + 1  # and <mask>
    model = {"_name": "linformer_roberta_tiny", "max_positions": 32, "attention": "exact", "local_conv": 0}
    settings = complete_settings(model)
    torch.manual_seed(0)
    built = LinformerRobertaModel(settings, LinformerRobertaEncoder(settings, symbols(size)))
    teacher = Checkpoint(built.state_dict(), model, {"_name": "masked_lm", "tokens_per_sample": 32})
    student = to_linformer(teacher, "8", None, "key-value", "adaptive", window=2)
    for name, checkpoint in (("teacher", teacher), ("student", student)):
        write(checkpoint, tmp_path / f"{name}.pt")
    return [str(tmp_path / "teacher.pt"), str(tmp_path / "student.pt")]


def command(models: list[str], data: Path, run: Path, *more: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert cli.main(["distill", *models, str(data), "--save-dir", str(run), "--dry-run", "--", *more]) == 0
    return shlex.split(capsys.readouterr().out)


@pytest.mark.slow
def test_a_stopped_distillation_ends_like_one_that_was_not(
    models: list[str],
    tiny_data: Path,
    tmp_path: Path,
    run_fairseq: Callable[..., Any],
    same_end: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the shape of the student, and without the teacher in its checkpoints."""
    for run, updates in (("whole", "4"), ("cut", "2"), ("cut", "4")):
        flags = ["--cpu", "--total-num-update", "4", "--max-update", updates, "--save-interval-updates", "2"]
        argv = command(models, tiny_data, tmp_path / run, *flags, capsys=capsys)
        assert '"valid_cosine"' in run_fairseq(*argv).stdout
    same_end(tmp_path / "whole", tmp_path / "cut")
    before, after = read(Path(models[1])), read(tmp_path / "cut/checkpoint_last.pt")
    assert after.state.keys() == before.state.keys()
    assert (after.model["projection"], after.model["local_window"]) == ("adaptive", 2)


def test_a_teacher_without_exact_attention_is_refused(
    models: list[str], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["distill", models[1], models[1], str(tiny_data), "--save-dir", str(tmp_path / "run")]) == 1
    assert "has --attention linformer; convert the model with --attention exact" in capsys.readouterr().err
