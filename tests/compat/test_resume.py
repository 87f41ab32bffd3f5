"""A training that is killed and started again ends where it would have ended: same losses, same bits."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# With dropout, so that the random numbers have to go on where they stopped, too.
LINFORMER = ["--arch", "linformer_roberta_tiny", "--projected-length", 16, "--dropout", 0.1, "--attention-dropout", 0.1]
FLAGS = [*LINFORMER, "--max-update", 14, "--save-interval-updates", 3, "--disable-validation"]  # into epoch 2


def kill_after_update(update: int, process: Any) -> str:
    """Kill all processes of a training once it has logged `update`; return its log."""
    log = ""
    with process:
        for line in process.stdout:
            log += line
            if f'"num_updates": "{update}"' in line:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, log[-3000:]
    return log


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_training_ends_where_it_would_have_ended(
    processes: int,
    train: Callable[..., Any],
    tiny_roberta: list[object],
    start_fairseq: Callable[..., Any],
    same_end: Callable[[Path, Path], None],
    tmp_path: Path,
) -> None:
    flags = [*FLAGS, "--distributed-world-size", processes]
    whole = train(tmp_path / "whole", *flags)
    assert len(whole.losses) == 14

    killed = tmp_path / "killed"
    log = kill_after_update(8, start_fairseq("fairseq-train", *tiny_roberta, *flags, "--save-dir", killed))
    assert "checkpoint_1_6.pt" in log  # saved, and two updates more are lost

    resumed = train(killed, *flags)
    first = resumed.losses[0][0]
    assert first in (7, 10)  # 10 if the next checkpoint was written before the signal came
    assert resumed.losses == whole.losses[first - 1 :]
    same_end(killed, tmp_path / "whole")
    shutil.rmtree(tmp_path)
