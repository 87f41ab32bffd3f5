"""A tiny Linformer with dropout, trained by the real command, as whoever runs it or ends it would do it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.plugin import register

register()
TINY = [
    *("--user-dir", USER_DIR, "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "linformer_roberta_tiny"),
    *("--encoder-layers", 1, "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 64, "--encoder-attention-heads", 2),
    *("--tokens-per-sample", 64, "--projected-length", 16, "--sample-break-mode", "complete", "--batch-size", 16),
    *("--optimizer", "adam", "--lr-scheduler", "fixed", "--lr", "1e-3", "--required-batch-size-multiple", 1, "--cpu"),
    *("--dropout", 0.1, "--log-format", "json", "--log-interval", 1, "--no-epoch-checkpoints", "--disable-validation"),
]


@pytest.fixture(scope="session")
def train_command(tiny_data: Path, fairseq_popen: Any) -> Callable[..., list[str]]:
    """`train_command(save_dir, "--max-update", 3)`: the words of a `fairseq-train`, `launcher` before them."""

    def command(save_dir: Path, *flags: object, launcher: tuple[object, ...] = ()) -> list[str]:
        words: list[str] = fairseq_popen[0](
            *launcher, "fairseq-train", tiny_data, *TINY, "--save-dir", save_dir, *flags
        )
        return words

    return command


@pytest.fixture(scope="session")
def start(fairseq_popen: Any) -> Callable[..., subprocess.Popen[str]]:
    """Start a command of `train_command` in a process group of its own, its output in `stdout`."""

    def popen(command: list[str], **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            env=fairseq_popen[1](environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return popen


@pytest.fixture(scope="session")
def finish(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Run a command of `train_command` to its end, which has to be `status`; return what it has printed."""

    def run(command: list[str], status: int = 0, **environment: str) -> str:
        process = start(command, **environment)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == status, output[-5000:]
        return output

    return run


# Starts its arguments once for each of two ranks, as srun would, and passes no signal on.
LIKE_SRUN = """
import os, signal, subprocess, sys
tasks = [
    subprocess.Popen(sys.argv[1:], env={**os.environ, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
    for rank in (0, 1)
]
for asking in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
    signal.signal(asking, signal.SIG_IGN)
sys.exit(max(abs(task.wait()) for task in tasks))
"""


@pytest.fixture(scope="session")
def srun() -> tuple[tuple[object, ...], dict[str, str]]:
    """A launcher that starts two ranks as srun does, and its environment."""
    environment = {
        **{"SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "here", "SLURM_STEP_NODELIST": "here"},
        **{"SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"},
        **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    }
    return (sys.executable, "-c", LIKE_SRUN), environment


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("4m")`: the folder where a disk of that size is mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str) -> Path:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if mounted.returncode:
            pytest.skip("mounting a small tmpfs needs root")
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], capture_output=True)
