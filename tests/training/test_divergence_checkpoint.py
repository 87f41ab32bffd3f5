"""Which checkpoint a diverged training can go on from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from linformer_fairseq.training.divergence_checkpoint import last_good_checkpoint


def save(folder: Path, name: str, updates: int, value: float = 1.0) -> Path:
    content = {"model": {"weight": torch.full((300,), value), "version": torch.tensor(1)}, "extra_state": {}}
    torch.save({**content, "optimizer_history": [{"num_updates": updates}]}, folder / name)
    return folder / name


def test_the_newest_one_until_then_is_found(tmp_path: Path) -> None:
    save(tmp_path, "checkpoint_1_5.pt", 5)
    good = save(tmp_path, "checkpoint_1_10.pt", 10)
    save(tmp_path, "checkpoint_1_15.pt", 15)
    save(tmp_path, "checkpoint_last.pt", 15)
    os.utime(tmp_path / "checkpoint_1_5.pt")  # copied since; updates count, not times
    assert last_good_checkpoint(tmp_path, 14) == (good, 10)
    assert last_good_checkpoint(tmp_path, 4) is None


def test_a_numbered_one_is_named_before_its_copy(tmp_path: Path) -> None:
    numbered = save(tmp_path, "checkpoint_1_10.pt", 10)
    shutil.copy(numbered, tmp_path / "checkpoint_last.pt")
    assert last_good_checkpoint(tmp_path, 10) == (numbered, 10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_not_good(tmp_path: Path, value: float) -> None:
    good = save(tmp_path, "checkpoint_1_5.pt", 5)
    save(tmp_path, "checkpoint_1_10.pt", 10, value)
    assert last_good_checkpoint(tmp_path, 20) == (good, 5)


def test_damaged_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    good = save(tmp_path, "checkpoint_1_5.pt", 5)
    cut = save(tmp_path, "checkpoint_1_10.pt", 10)
    cut.write_bytes(cut.read_bytes()[:-400])
    (tmp_path / "checkpoint_1_11.pt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "checkpoint_1_12.pt")
    torch.save({"model": {}, "optimizer_history": [7]}, tmp_path / "checkpoint_1_13.pt")
    assert last_good_checkpoint(tmp_path, 20) == (good, 5)
