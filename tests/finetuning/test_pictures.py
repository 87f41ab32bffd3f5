"""Pictures of predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from linformer_fairseq.finetuning.pictures import calibration, confusion


def test_a_picture_has_something_on_it(tmp_path: Path) -> None:
    targets, logits = np.array([0.0, 1, 2, 1]), np.eye(3)[[0, 1, 2, 2]] * 5
    confusion(targets, logits, ["a", "b", "c" * 99], tmp_path / "a.png")
    calibration(targets, logits, tmp_path / "b.png")
    assert all(imread(tmp_path / name).std() > 0.01 for name in ("a.png", "b.png"))


def test_the_calibration_error_is_the_distance_of_sureness_and_accuracy(tmp_path: Path) -> None:
    logits = np.log(np.array([[0.75, 0.25]] * 4 + [[0.05, 0.95]] * 2))
    assert calibration(np.array([0, 0, 0, 1, 1, 1]), logits, tmp_path / "a.png") == pytest.approx(0.05 * 2 / 6)
