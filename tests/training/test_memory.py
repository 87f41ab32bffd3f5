"""Freed memory is kept: the same tensors again cost no pages of the kernel."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

FAULTS = """
import resource, sys, torch
if sys.argv[1] == "keep":
    import linformer_fairseq
def work():
    for _ in range(5):
        torch.ones(2**24).add(1)  # 64 MiB each
work(); work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU malloc is left as it is")
def test_the_same_tensors_again_cost_no_pages() -> None:
    kept, not_kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True).stdout)
        for way in ("keep", "leave")
    )
    assert kept < not_kept / 5
