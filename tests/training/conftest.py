"""A tiny Linformer with dropout, trained by the real command, as whoever runs it or ends it would do it."""

from __future__ import annotations

import subprocess
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
def train_command(tiny_data: Path) -> Callable[..., list[object]]:
    """`train_command(save_dir, "--max-update", 3)`: the words of a `fairseq-train`, `launcher` before them."""

    def command(save_dir: Path, *flags: object, launcher: tuple[object, ...] = ()) -> list[object]:
        return [*launcher, "fairseq-train", tiny_data, *TINY, "--save-dir", save_dir, *flags]

    return command


@pytest.fixture(scope="session")
def start(start_fairseq: Callable[..., Any]) -> Callable[..., Any]:
    """Start a command of `train_command` in a process group of its own, its output in `stdout`."""
    return lambda command, **environment: start_fairseq(*command, env=environment)


@pytest.fixture(scope="session")
def finish(start: Callable[..., Any]) -> Callable[..., str]:
    """Run a command of `train_command` to its end, which has to be `status`; return what it has printed."""

    def run(command: list[object], status: int = 0, **environment: str) -> str:
        process = start(command, **environment)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == status, output[-5000:]
        return output

    return run


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
