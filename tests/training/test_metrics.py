"""The file of figures: what a reader gets after kills, restarts and a cut line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from linformer_fairseq.training.metrics import MetricsFile, read_metrics


def lines(folder: Path, start: int, *updates: int, split: str = "train") -> None:
    """Append a line for each update; every update has trained on 10 tokens and took a second."""
    file = MetricsFile(folder, start)
    for number, update in enumerate(updates, 1):
        file.append({"split": split, "update": update, "tokens": 10 * update, "seconds": file.seconds_before + number})


def read(folder: Path) -> list[tuple[int, str, int]]:
    return [(line["update"], line["split"], line["start"]) for line in read_metrics(folder)]


def test_of_updates_that_were_done_twice_the_later_ones_count(tmp_path: Path) -> None:
    lines(tmp_path, 1, 1, 2, 3, 4, 5)
    lines(tmp_path, 1, 5, split="valid")
    lines(tmp_path, 2, 3, 4)  # killed, and started again from a checkpoint of update 2
    assert read(tmp_path) == [(1, "train", 1), (2, "train", 1), (3, "train", 2), (4, "train", 2)]
    assert read_metrics(tmp_path) == read_metrics(tmp_path / "metrics.jsonl")


def test_a_validation_stands_beside_the_training_of_the_same_update(tmp_path: Path) -> None:
    lines(tmp_path, 1, 2)
    lines(tmp_path, 1, 2, split="valid")
    lines(tmp_path, 1, 2, split="valid1")
    lines(tmp_path, 2, 3)
    assert read(tmp_path) == [(2, "train", 1), (2, "valid", 1), (2, "valid1", 1), (3, "train", 2)]


def test_a_line_that_was_cut_is_left_out_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    lines(tmp_path, 1, 1, 2)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole[:-9])
    lines(tmp_path, 2, 2)
    assert read(tmp_path) == [(1, "train", 1), (2, "train", 2)]


def test_seconds_go_on_and_tokens_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    lines(tmp_path, 1, 1, 2, 3, 4)
    again = MetricsFile(tmp_path, 2)
    assert again.seconds_before == 4
    assert again.tokens_until(2) == (2, 20)
    assert again.tokens_until(0) == (0, 0)
    assert MetricsFile(tmp_path / "..", 1).tokens_until(7) == (0, None)  # no file that tells


def test_tokens_before_a_log_interval_are_those_of_its_beginning(tmp_path: Path) -> None:
    lines(tmp_path, 1, 10)
    lines(tmp_path, 1, 15, split="valid")  # within the next interval, of which a checkpoint may have restored a part
    assert MetricsFile(tmp_path, 2).tokens_until(17) == (10, 100)
    assert MetricsFile(tmp_path, 2).tokens_until(15) == (15, 150)


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    MetricsFile(tmp_path, 1).append({"update": 1, "loss": math.nan, "other": {"x": math.inf, "y": 1.5}})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        **{"update": 1, "loss": None, "other": {"x": None, "y": 1.5}},
        "start": 1,
    }


def test_a_full_disk_stops_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = MetricsFile(tmp_path, 1)

    def full(*arguments: object, **named: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(Path, "open", full)
        file.append({"update": 1})
    assert "No space left on device" in caplog.text
    file.append({"update": 2})
    assert [line["update"] for line in read_metrics(tmp_path)] == [2]
