"""The check of a GPU, small on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recipes.measure import gpu_check

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--cpu", "--out", str(tmp_path / "check.json")])
    status = gpu_check.main()
    found = json.loads((tmp_path / "check.json").read_text())
    assert status == 0 and not [step for step, figures in found.items() if "failed" in figures], found
    assert max(found["types"].values()) < 0.5
    assert str(REPOSITORY) not in (tmp_path / "check.json").read_text()  # it is published
    assert found["resuming"] == dict.fromkeys(("fp32", "bf16"), {"resumed": 0.0, "repeated": 0.0})
    assert set(found["speed"]) == {"base_n512_k128", "base_n4096_k256"}
    assert {"versions", "kernels", "host_waits", "training", "overflow", "saving", "compiling"} <= set(found)
