"""Freed memory is kept: the same tensors again cost no pages of the kernel."""

from __future__ import annotations

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from linformer_fairseq.training import hardware, hooks

FAULTS = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from linformer_fairseq.training.hardware import keep_freed_memory
    keep_freed_memory()
def work():
    for _ in range(5):
        torch.ones(2**24).add(1)  # 64 MiB each
work(); work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_the_same_tensors_again_cost_no_pages() -> None:
    kept, not_kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True).stdout)
        for way in ("keep", "leave")
    )
    assert kept < not_kept / 5


def test_trainings_on_a_cpu_ask_for_it_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(hardware, "keep_freed_memory", lambda: asked.append(True))
    for cpu in (False, True):
        common = {"cpu": cpu, "tpu": not cpu, "bf16": False, "amp": False, "fp16": False}
        trainer = SimpleNamespace()
        hooks.create_trainer(
            lambda *_: None,
            trainer,
            OmegaConf.create(
                {"common": common, "distributed_training": {"heartbeat_timeout": -1}, "task": {"_name": "other"}}
            ),
            None,
            None,
            None,
        )
        assert bool(asked) is cpu
