"""The table of results, and pictures of predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.report import Row, calibration, confusion, read_rows, table, write_table

BASELINES = {"accuracy": 50.9}, {"accuracy": 81.8}
ROWS = [
    Row("SST-2", "lr 1", {"train": 67349, "dev": 872}, {"accuracy": [80.0, 84.0, 82.0]}, *BASELINES),
    Row(
        "MRPC", "lr 2", {"train": 3668, "dev": 408}, {"accuracy": [70.0], "f1": [81.25]}, {"accuracy": 68.4, "f1": 81.2}
    ),
    Row(
        *("MNLI", "lr 1", {"train": 9, "dev_matched": 4, "dev_mismatched": 5}),
        {"dev_matched accuracy": [50.0, 25.0], "dev_mismatched accuracy": [40.0, 60.0]},
        {"dev_matched accuracy": 33.0, "dev_mismatched accuracy": 34.0},
    ),
]


def test_median_and_spread_stand_beside_other_models_and_the_papers_figures(tmp_path: Path) -> None:
    other = [Row("SST-2", "lr 3", {"train": 67349, "dev": 872}, {"accuracy": [77.0]}, {"accuracy": 50.9})]
    lines = write_table(ROWS, tmp_path, "ours", {"theirs": other}).splitlines()
    assert lines[0].startswith(
        "| task | train | scored | metric | majority-class baseline | TF-IDF + logistic regression | ours | theirs "
    )
    assert [line.count("|") for line in lines] == [12] * len(lines)
    assert lines[2] == (
        "| SST-2 | 67,349 | 872 | accuracy | 50.9 | 81.8 | 82.0 (80.0-84.0) | 77.0 (one seed) | 93.1 | 93.2 | lr 1 |"
    )
    assert lines[4] == "| MRPC | 3,668 | 408 | f1 | 81.2 |  | 81.2 (one seed) |  |  |  | lr 2 |"
    assert lines[6] == "| MNLI | 9 | 5 | dev_mismatched accuracy | 34.0 |  | 50.0 (40.0-60.0) |  |  |  | lr 1 |"
    assert (tmp_path / "results.md").read_text().splitlines() == lines
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[2] == ["ours", "SST-2", "lr 1", "accuracy", "2", "84.0"] and len(rows) == 11
    assert rows[-1] == ["theirs", "SST-2", "lr 3", "accuracy", "1", "77.0"]
    assert imread(tmp_path / "results.png").std() > 0.01  # not an empty page


def test_the_papers_figure_is_of_the_test_set_where_there_is_one() -> None:
    scores = {"dev accuracy": [90.0], "test accuracy": [88.0]}
    row = Row("IMDB", "lr 1", {"train": 9, "dev": 4, "test": 5}, scores, dict.fromkeys(scores, 50.0))
    dev, test = table({"ours": [row]}).splitlines()[2:]
    assert dev == "| IMDB | 9 | 4 | dev accuracy | 50.0 |  | 90.0 (one seed) |  |  | lr 1 |"
    assert test == "| IMDB | 9 | 5 | test accuracy | 50.0 |  | 88.0 (one seed) | 94.1 | 94.0 | lr 1 |"
    assert ROWS[1].headline == "accuracy" and ROWS[2].headline == "dev_mismatched accuracy"


def test_a_table_can_stand_beside_another_one(tmp_path: Path) -> None:
    write_table(ROWS, tmp_path)
    assert read_rows(tmp_path) == ROWS
    assert json.loads((tmp_path / "results.json").read_text())[1]["scores"]["f1"] == [81.25]
    with pytest.raises(UsageError, match="absent/results.json: no such file"):
        read_rows(tmp_path / "absent")


def test_a_picture_has_something_on_it(tmp_path: Path) -> None:
    targets, logits = np.array([0.0, 1, 2, 1]), np.eye(3)[[0, 1, 2, 2]] * 5
    confusion(targets, logits, ["a", "b", "c" * 99], tmp_path / "a.png")
    calibration(targets, logits, tmp_path / "b.png")
    assert all(imread(tmp_path / name).std() > 0.01 for name in ("a.png", "b.png"))


def test_the_calibration_error_is_the_distance_of_sureness_and_accuracy(tmp_path: Path) -> None:
    logits = np.log(np.array([[0.75, 0.25]] * 4 + [[0.05, 0.95]] * 2))
    assert calibration(np.array([0, 0, 0, 1, 1, 1]), logits, tmp_path / "a.png") == pytest.approx(0.05 * 2 / 6)
