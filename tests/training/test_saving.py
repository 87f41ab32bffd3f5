"""What is written in the background is the state of the moment of the save, and all of it is on the disk in the end."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.training.files import damage
from linformer_fairseq.training.saving import LARGE, snapshot

LARGE_MODEL = ("--encoder-embed-dim", 128, "--encoder-ffn-embed-dim", 8192, "--no-last-checkpoints")  # 28 MB


def test_a_snapshot_does_not_change_and_keeps_what_is_shared() -> None:
    weight = torch.ones(4)
    half = torch.full((2,), 1.5, dtype=torch.float16)
    state = {"model": {"embedding": weight, "output": weight}, "list": [half], "number": 3}
    copied = snapshot(state)
    weight.add_(1)
    assert torch.equal(copied["model"]["embedding"], torch.ones(4)) and copied["number"] == 3
    assert copied["model"]["embedding"] is copied["model"]["output"]
    assert copied["list"][0].dtype == torch.float32 and copied["list"][0][0] == 1.5  # as fairseq writes it


@pytest.mark.slow
def test_a_large_checkpoint_is_written_in_the_background(finish: Any, train_command: Any, tmp_path: Path) -> None:
    flags = (*LARGE_MODEL, "--save-interval-updates", 2, "--keep-interval-updates", 1, "--max-update", 6)
    log = finish(train_command(tmp_path, *flags))
    assert log.count("in the background") == log.count("INFO | linformer_fairseq.training.saving | Saved ") == 3
    assert (tmp_path / "checkpoint_1_6.pt").stat().st_size > LARGE
    checksums = sorted(path.name for path in tmp_path.glob("*.sha256"))
    checked = subprocess.run(["sha256sum", "-c", *checksums], cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0 and "checkpoint_1_6.pt: OK" in checked.stdout
    # Those of the files that fairseq has removed are gone too.
    assert checksums == sorted(f"{path.name}.sha256" for path in tmp_path.glob("*.pt"))


@pytest.mark.slow
def test_a_full_disk_ends_the_training_with_its_name(
    start: Any, train_command: Any, small_disk: Callable[[str], Path]
) -> None:
    folder = small_disk("45m")
    process = start(train_command(folder, *LARGE_MODEL, "--save-interval-updates", 2, "--max-update", 6))
    log, _ = process.communicate(timeout=120)
    assert process.returncode == 1, log[-3000:]
    last = log.strip().splitlines()[-1]
    assert last.startswith(f"error: {folder}: No space left on device while checkpoint_1_4.pt was written"), log[-3000:]
    assert "Traceback" not in log
    assert damage(folder / "checkpoint_1_2.pt") is None and not list(folder.glob(".*.partial"))
