"""A tiny RoBERTa of fairseq's own, trained by the real commands with this project as --user-dir."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.plugin import register

register()

# 12 updates per epoch or so. No dropout, so that losses do not depend on how many processes draw random numbers.
TINY_ROBERTA = [
    *("--user-dir", USER_DIR, "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "roberta", "--cpu"),
    *("--encoder-layers", 1, "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 64, "--encoder-attention-heads", 2),
    *("--tokens-per-sample", 64, "--max-positions", 64, "--sample-break-mode", "complete", "--batch-size", 16),
    *("--optimizer", "adam", "--lr-scheduler", "fixed", "--lr", "1e-3", "--required-batch-size-multiple", 1),
    *("--dropout", 0, "--attention-dropout", 0, "--log-format", "json", "--log-interval", 1, "--no-epoch-checkpoints"),
]


@dataclass
class Run:
    """A training that has ended."""

    returncode: int
    output: str
    save_dir: Path
    losses: list[tuple[int, float]]
    """Update and loss of every update."""

    def checkpoint(self, name: str = "checkpoint_last.pt") -> dict[str, Any]:
        """Read a checkpoint in full, with nothing but PyTorch."""
        state: dict[str, Any] = torch.load(self.save_dir / name, weights_only=False)
        return state


@pytest.fixture(scope="session")
def tiny_roberta(tiny_data: Path) -> list[object]:
    """Arguments of `fairseq-train` for a tiny RoBERTa, without --save-dir."""
    return [tiny_data, *TINY_ROBERTA]


@pytest.fixture(scope="session")
def train(
    run_fairseq: Callable[..., CompletedProcess[str]],
    parse_losses: Callable[[str], list[tuple[int, float]]],
    tiny_roberta: list[object],
) -> Callable[..., Run]:
    """Train a tiny RoBERTa into a folder: `train(save_dir, "--max-update", 3)`.

    `launcher` goes before `fairseq-train`; `env` and `check` are those of `run_fairseq`.
    """

    def run(save_dir: Path, *flags: object, launcher: tuple[object, ...] = (), **options: Any) -> Run:
        argv = [*launcher, "fairseq-train", *tiny_roberta, "--save-dir", save_dir, *flags]
        done = run_fairseq(*argv, **options)
        return Run(done.returncode, done.stdout, save_dir, parse_losses(done.stdout))

    return run
