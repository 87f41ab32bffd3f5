"""`emulator`: runs of `fairseq-train` in 16 bit on this CPU; emulated.py says how they differ from those on a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.paths import USER_DIR

MODES = {
    "fp32": (),
    "fp16": ("--fp16",),
    "memory-efficient fp16": ("--memory-efficient-fp16",),
    "amp": ("--amp",),
    "bf16": ("--bf16",),
    "memory-efficient bf16": ("--memory-efficient-bf16",),
}
PAIRS = {
    "adam and masked_lm": ("--task", "masked_lm", "--optimizer", "adam", "--criterion", "masked_lm"),
    "the fused pair": ("--task", "masked_lm", "--optimizer", "fused_adamw", "--criterion", "fused_masked_lm"),
    "streaming": ("--task", "streaming_masked_lm", "--optimizer", "fused_adamw", "--criterion", "fused_masked_lm"),
}
TINY = [
    *("--user-dir", USER_DIR, "--arch", "linformer_roberta_tiny", "--cpu", "--seed", 1, "--num-workers", 0),
    *("--encoder-layers", 2, "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 64, "--encoder-attention-heads", 2),
    *("--tokens-per-sample", 64, "--projected-length", 16, "--sample-break-mode", "complete", "--batch-size", 8),
    *("--lr-scheduler", "fixed", "--lr", "2e-3", "--required-batch-size-multiple", 1, "--clip-norm", 1.0),
    *("--dropout", 0, "--attention-dropout", 0, "--log-format", "json", "--log-interval", 1),
    *("--no-epoch-checkpoints", "--disable-validation"),
]


@dataclass
class Run:
    """A run that has ended."""

    save_dir: Path
    status: int
    output: str
    losses: list[tuple[int, float]]
    """Update and loss of every update."""

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self.save_dir / "checkpoint_last.pt", weights_only=False)
        return state


class Emulator:
    """Starts runs. The fixtures below say what they train."""

    def __init__(self, server: subprocess.Popen[str], data: Path, parse: Any) -> None:
        self.server, self.data, self.parse = server, data, parse
        self.numbers = count()

    def _ask(self, question: object) -> int:
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        line = next(line for line in self.server.stdout if line.startswith("answer"))  # imports write lines as well
        return int(line.split()[1])

    def start(
        self, save_dir: Path, *flags: object, gradients: Mapping[int, float] | None = None, **env: str
    ) -> tuple[int, Path]:
        """Start a run in its folder; returns its process id and log. `gradients`: see `emulated.inject`."""
        save_dir.mkdir(parents=True, exist_ok=True)
        log = save_dir / f"{next(self.numbers)}.log"
        argv = [str(word) for word in (self.data, *TINY, "--save-dir", save_dir, *flags)]
        return self._ask({"argv": argv, "log": str(log), "env": env, "gradients": gradients or {}}), log

    def wait(self, process: int, log: Path, status: int | None = 0) -> Run:
        """Wait for a run, which has to end with `status` unless that is None."""
        ended, output = self._ask(process), log.read_text()
        assert status is None or ended == status, output[-5000:]
        return Run(log.parent, ended, output, self.parse(output))

    def run(self, save_dir: Path, *flags: object, status: int | None = 0, **options: Any) -> Run:
        """A run from its start to its end."""
        return self.wait(*self.start(save_dir, *flags, **options), status=status)


@pytest.fixture(scope="session")
def emulator(tiny_data: Path, parse_losses: Any, fairseq_popen: Any) -> Iterator[Emulator]:
    """One server for all tests of a worker."""
    command = [sys.executable, Path(__file__).with_name("emulated.py")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=fairseq_popen[1](), stdin=pipe, stdout=pipe, text=True) as server:
        yield Emulator(server, tiny_data, parse_losses)
        server.stdin.close()


@pytest.fixture(scope="session")
def modes() -> Mapping[str, tuple[str, ...]]:
    """The flags of each precision."""
    return MODES


@pytest.fixture(scope="session")
def pairs() -> Mapping[str, tuple[str, ...]]:
    """The flags of each task, optimizer and criterion."""
    return PAIRS
