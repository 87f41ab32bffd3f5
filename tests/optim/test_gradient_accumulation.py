"""With --update-freq, two processes add up their gradients once an update, not once a batch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from linformer_fairseq.paths import USER_DIR

# Counts the buckets that DDP sums over both processes, and tells at the end of each update.
COUNTING = """
import sys
from pathlib import Path
from fairseq_cli import train
sys.path.insert(0, str(Path({user_dir!r}).parent))
from linformer_fairseq.plugin import register
register()
from linformer_fairseq.compat.launch import DeviceAwareDDP
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

buckets = []
wrap = DeviceAwareDDP.__init__

def init(self, *arguments, **named):
    wrap(self, *arguments, **named)
    def hook(state, bucket):
        buckets.append(bucket.buffer().numel())
        return allreduce_hook(state, bucket)
    self.register_comm_hook(None, hook)

step = train.Trainer.train_step

def train_step(self, samples):
    before = len(buckets)
    logged = step(self, samples)
    print(f"rank {{self.data_parallel_rank}}: {{len(samples)}} batches, {{sum(buckets[before:])}} numbers", flush=True)
    return logged

DeviceAwareDDP.__init__ = init
train.Trainer.train_step = train_step
train.cli_main()
"""

TRAINING = [
    *("--user-dir", USER_DIR, "--task", "masked_lm", "--criterion", "fused_masked_lm", "--optimizer", "fused_adamw"),
    *("--encoder-layers", 1, "--encoder-embed-dim", 16, "--encoder-ffn-embed-dim", 32, "--cpu"),
    *("--encoder-attention-heads", 2, "--no-save"),
    *("--tokens-per-sample", 64, "--max-positions", 64, "--sample-break-mode", "complete", "--batch-size", 4),
    *("--lr", 1e-3, "--lr-scheduler", "fixed", "--max-update", 2, "--disable-validation", "--num-workers", 0),
]


OURS = ("--arch", "linformer_roberta_tiny", "--projected-length", 16)
UNUSED = ("--find-unused-parameters",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [OURS, (*OURS, *UNUSED), ("--arch", "roberta", *UNUSED)],
    ids=["", "find-unused-parameters", "roberta"],
)
def test_gradients_are_summed_once_an_update(
    run_fairseq: Any, tiny_data: Path, srun: Any, tmp_path: Path, more: tuple[Any, ...]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(COUNTING.format(user_dir=str(USER_DIR)))
    launcher, environment = srun
    ended = run_fairseq(*launcher, script, tiny_data, *TRAINING, "--update-freq", 3, *more, env=environment)
    # Both processes write into one stream, and not always a line at a time.
    told = re.findall(r"rank \d: \d batches, \d+ numbers", ended.stdout)
    (parameters,) = {
        line.split("num. shared model params: ")[1].split(" ")[0].replace(",", "")
        for line in ended.stdout.splitlines()
        if "num. shared model params: " in line
    }
    assert sorted(told) == sorted(f"rank {rank}: 3 batches, {parameters} numbers" for rank in (0, 1) for _ in range(2))
