"""The check of a GPU, small on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, REPOSITORY / "recipes/measure/gpu_check.py", "--cpu", "--out", tmp_path / "check.json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    found = json.loads((tmp_path / "check.json").read_text())
    assert done.returncode == 0 and not [step for step, figures in found.items() if "failed" in figures], done.stdout
    assert max(found["types"].values()) < 0.5
    assert str(REPOSITORY) not in (tmp_path / "check.json").read_text()  # it is published
    assert found["resuming"] == dict.fromkeys(("fp32", "bf16"), {"resumed": 0.0, "repeated": 0.0})
    assert set(found["speed"]) == {"base_n512_k128", "base_n4096_k256"}
    assert {"versions", "kernels", "host_waits", "training", "overflow", "saving", "compiling"} <= set(found)
