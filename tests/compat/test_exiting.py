"""A program that ends while batches are being loaded ends well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Eight of fairseq's loaders at work on the last line; without the repair, this dies of SIGABRT every time.
ENDS_WHILE_LOADING = """
import torch
from fairseq.data.iterators import BufferedIterator
from linformer_fairseq.plugin import register

register()

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        return torch.full((4, 8), index), torch.zeros(64)

loaders = [BufferedIterator({size}, torch.utils.data.DataLoader(Data(), batch_size=4)) for _ in range(8)]
for loader in loaders * 5:
    next(loader)
print("last line")
"""


@pytest.mark.parametrize("size", [2, 1_000_000], ids=["waiting for room", "loading"])
def test_ends_while_batches_are_loaded(size: int) -> None:
    program = [sys.executable, "-c", ENDS_WHILE_LOADING.replace("{size}", str(size))]
    ended = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("last line\n")
