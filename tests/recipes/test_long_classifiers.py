"""The measurement of long classifiers: every contestant in every runtime that it has."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from linformer_fairseq.measuring import contestants
from linformer_fairseq.measuring.contestants import EXACT, ROBERTA
from recipes.measure import long_classifiers
from recipes.measure.long_classifiers import LONGFORMER, RUNTIMES


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_all_contestants_classify_all_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linformer_fairseq.measuring.study.in_a_process", partial)
    monkeypatch.setattr(contestants, "SCORES", 4 * 100**2)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    assert long_classifiers.MEASUREMENT.main(["--quick", "--out", str(tmp_path)]) == 0
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    ours = ["adaptive, k = 16, W = 0", "adaptive, k = 16, W = 4"]
    expected = [f"{name}, {', '.join(runtime)}" for runtime in RUNTIMES for name in (*ours, EXACT, ROBERTA, LONGFORMER)]
    expected = [name for name in expected if not (name.startswith(LONGFORMER) and "ONNX" in name)]
    assert [*cells] == [f"{name}, round 0" for name in expected]
    for name, found in cells.items():
        assert found["ms, 64 tokens"] > 0 and found["MB, 64"] >= 0
        too_large = "ONNX" in name and name.startswith((EXACT, ROBERTA))
        assert ("ms, 128 tokens" in found) is not too_large
    assert f"| {ours[0]}, PyTorch, float32 |" in (tmp_path / "table.md").read_text()
