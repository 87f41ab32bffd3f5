"""What each task of the fine-tuning array does; finetune_glue.py's own tests show that the parts add up."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, more: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The script with a Python that says what it is asked to do."""
    python = folder / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    settings = {"PATH": os.environ["PATH"], "PYTHON": str(python), "SLURM_SUBMIT_DIR": str(ROOT), **environment}
    command = ["bash", str(ROOT / "slurm/finetune_glue.sh"), *more]
    return subprocess.run(command, env=settings, capture_output=True, text=True)


@pytest.mark.parametrize(("lowest", "task", "part"), [("1", "3", "3/27"), ("0", "26", "27/27")])
def test_a_task_of_the_array_does_its_part(lowest: str, task: str, part: str, tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_MIN": lowest, "SLURM_ARRAY_TASK_COUNT": "27"}
    done = run(tmp_path, ["--tasks", "RTE,MRPC", "--lr", "1e-5", "2e-5"], CHECKPOINT="a b.pt", OUT="o", **array)
    assert done.stdout.splitlines()[1:] == [
        *("recipes/finetune_glue.py", "--checkpoint", "a b.pt", "--glue-dir", "glue", "--out", "o", "--part", part),
        *("--tasks", "RTE,MRPC", "--lr", "1e-5", "2e-5"),
    ]


def test_alone_it_does_everything(tmp_path: Path) -> None:
    assert "1/1" in run(tmp_path, [], CHECKPOINT="c.pt").stdout.splitlines()


def test_without_a_checkpoint_it_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, [])
    assert done.returncode != 0 and "CHECKPOINT: names a pretrained checkpoint" in done.stderr
