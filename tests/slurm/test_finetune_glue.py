"""What each task of the fine-tuning array does; tests/commands/test_glue.py shows that they share the runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, more: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The script with a Python that says what it is asked to do."""
    python = folder / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    settings = {"PATH": os.environ["PATH"], "PYTHON": str(python), "SLURM_SUBMIT_DIR": str(ROOT), **environment}
    command = ["bash", str(ROOT / "slurm/finetune_glue.sh"), *more]
    return subprocess.run(command, env=settings, capture_output=True, text=True)


def test_every_task_of_the_array_starts_the_same_command(tmp_path: Path) -> None:
    flags = ["--tasks", "RTE,MRPC", "--lr", "1e-5", "2e-5"]
    done = run(tmp_path, flags, CHECKPOINT="a b.pt", OUT="o", SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="27")
    assert done.stdout.splitlines() == [
        *("-u", "-m", "linformer_fairseq", "glue", "--checkpoint", "a b.pt", "--glue-dir", "glue", "--out", "o"),
        *flags,
    ]


def test_without_a_checkpoint_it_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, [])
    assert done.returncode != 0 and "CHECKPOINT: names a pretrained checkpoint" in done.stderr
