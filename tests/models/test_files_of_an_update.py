"""How many files of this project one update runs through: what a reader opens to follow a token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from linformer_fairseq.paths import USER_DIR

LAYERS = "encoder attention projection fused".split()
MODEL = {"models/linformer_roberta.py", *(f"layers/{name}.py" for name in LAYERS)}
FAST = {"tasks/batches.py", "tasks/blocks.py", "criterions/fused_masked_lm.py", "optim/fused_adamw.py"}
FAST_FLAGS = "--task streaming_masked_lm --criterion fused_masked_lm --optimizer fused_adamw".split()
ROOMS = ("models", "layers", "tasks", "criterions", "optim")
MOST = {"default": 10, "fast": 12}  # with the training hooks and the repairs of fairseq

# Trains, and writes the files of this project in which functions are called from the second update to the third.
TRACING = """
import json, sys
from linformer_fairseq.plugin import register
register()
from fairseq.trainer import Trainer
from fairseq_cli import train

home, result = sys.argv.pop(1), sys.argv.pop(1)
files, updates, train_step = set(), 0, Trainer.train_step

def profile(frame, event, argument):
    if event == "call" and frame.f_code.co_filename.startswith(home):
        files.add(frame.f_code.co_filename[len(home) + 1:])

def traced(self, *arguments, **named):
    global updates
    updates += 1
    if updates == 3:
        sys.setprofile(None)
        with open(result, "w") as file:
            json.dump(sorted(files), file)
    logged = train_step(self, *arguments, **named)
    if updates == 1:
        sys.setprofile(profile)
    return logged

Trainer.train_step = traced
train.cli_main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name, flags, expected", [("default", [], MODEL), ("fast", FAST_FLAGS, MODEL | FAST)])
def test_a_token_passes_few_files(
    name: str, flags: list[str], expected: set[str], run_fairseq: Any, tiny_data: Path, tmp_path: Path
) -> None:
    script, result = tmp_path / "trace.py", tmp_path / "files.json"
    script.write_text(TRACING)
    run_fairseq(
        *(script, USER_DIR, result, tiny_data, "--user-dir", USER_DIR, "--task", "masked_lm"),
        *("--criterion", "masked_lm", "--optimizer", "adam", "--arch", "linformer_roberta_tiny", *flags, "--cpu"),
        *("--encoder-layers", 1, "--encoder-embed-dim", 16, "--encoder-ffn-embed-dim", 32, "--lr", 1e-3),
        *("--encoder-attention-heads", 2, "--projected-length", 16, "--max-positions", 64),
        *("--tokens-per-sample", 64, "--batch-size", 4),
        *("--num-workers", 0, "--data-buffer-size", 0, "--max-update", 3),
        *("--log-interval", 100, "--save-dir", tmp_path / "run"),
    )
    files = set(json.loads(result.read_text()))
    assert {file for file in files if file.split("/")[0] in ROOMS} == expected
    assert len(files) <= MOST[name], "\n".join(sorted(files))
