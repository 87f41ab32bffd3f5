"""`emulator`: runs of `fairseq-train` in 16 bit on this CPU; emulated.py says how they differ from those on a GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.paths import USER_DIR

PROGRAM = Path(__file__).with_name("emulated.py")
MODES: dict[str, dict[str, object]] = {
    "fp32": {},
    "fp16": {"common.fp16": True},
    "memory-efficient fp16": {"common.fp16": True, "common.memory_efficient_fp16": True},
    "amp": {"common.amp": True},
    "bf16": {"common.bf16": True},
    "memory-efficient bf16": {"common.bf16": True, "common.memory_efficient_bf16": True},
}
PAIRS = {
    "adam and masked_lm": ("--task", "masked_lm", "--optimizer", "adam", "--criterion", "masked_lm"),
    "the fused pair": ("--task", "masked_lm", "--optimizer", "fused_adamw", "--criterion", "fused_masked_lm"),
    "streaming": ("--task", "streaming_masked_lm", "--optimizer", "fused_adamw", "--criterion", "fused_masked_lm"),
}
TINY = [
    *("--user-dir", USER_DIR, "--arch", "linformer_roberta_tiny", "--cpu", "--seed", 1, "--num-workers", 0),
    *("--encoder-layers", 2, "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 64, "--encoder-attention-heads", 2),
    *("--tokens-per-sample", 64, "--projected-length", 16, "--sample-break-mode", "complete", "--batch-size", 4),
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
    """Starts runs, whose flags say which model trains how."""

    def __init__(self, data: Path, start: Any, parse: Any) -> None:
        self.data, self.popen, self.parse = data, start, parse

    def start(
        self,
        save_dir: Path,
        *flags: object,
        runs: Sequence[Mapping[str, object]] = ({},),
        launcher: tuple[object, ...] = (),
        **env: str,
    ) -> Any:
        """Start a process; `runs`: see emulated.py."""
        env = {"EMULATED_RUNS": json.dumps(runs), **env}
        return self.popen(*launcher, PROGRAM, self.data, *TINY, "--save-dir", save_dir, *flags, env=env)

    def run(self, save_dir: Path, *flags: object, status: int | None = 0, **options: Any) -> Run:
        """A run from its start to its end, with that exit status unless it is None."""
        process = self.start(save_dir, *flags, **options)
        output, _ = process.communicate()
        assert status is None or process.returncode == status, output[-5000:]
        return Run(save_dir, process.returncode, output, self.parse(output))

    def each(self, folder: Path, runs: Mapping[str, Mapping[str, object]], *flags: object) -> dict[str, Run]:
        """Runs by their names, which are their folders, one after another in one process; each has its settings."""
        settings = [{**run, "checkpoint.save_dir": str(folder / name)} for name, run in runs.items()]
        output = self.run(folder, *flags, runs=settings).output
        outputs = re.split(r"^EMULATED_RUNS \d+\n", output, flags=re.MULTILINE)[1:]
        return {name: Run(folder / name, 0, own, self.parse(own)) for name, own in zip(runs, outputs, strict=True)}


@pytest.fixture(scope="session")
def emulator(tiny_data: Path, start_fairseq: Any, parse_losses: Any) -> Emulator:
    """What starts the runs of these tests."""
    return Emulator(tiny_data, start_fairseq, parse_losses)


@pytest.fixture(scope="session")
def modes() -> Mapping[str, Mapping[str, object]]:
    """The settings of each precision."""
    return MODES


@pytest.fixture(scope="session")
def pairs() -> Mapping[str, tuple[str, ...]]:
    """The flags of each task, optimizer and criterion."""
    return PAIRS
