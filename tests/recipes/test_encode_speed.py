"""The benchmark measures every way of encoding and reports it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from linformer_fairseq.inference.quantize import quantize
from linformer_fairseq.measuring import contestants
from linformer_fairseq.measuring.contestants import EXACT, ROBERTA
from recipes.measure import encode_speed
from recipes.measure.encode_speed import mixed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_all_ways_are_measured_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linformer_fairseq.measuring.study.in_a_process", partial)
    monkeypatch.setattr(contestants, "SCORES", 4 * 100**2)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    words = ["--quick", "--threads", "1", "--device", "cpu", "--out", str(tmp_path)]
    assert encode_speed.MEASUREMENT.main(words) == 0
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    names = ("adaptive, k = 16, W = 0", "adaptive, k = 16, W = 4", EXACT, ROBERTA)
    how = ["PyTorch, float32", "ONNX Runtime, float32", "PyTorch, bfloat16", "PyTorch, int8", "ONNX Runtime, int8"]
    assert [*cells] == [f"{name}, {way}, threads 1, round 0" for way in how for name in names]
    for name, found in cells.items():
        assert found["tokens/s, 64"] > 0
        too_large = "ONNX" in name and name.startswith((EXACT, ROBERTA))
        assert ("tokens/s, 128" in found) is ("tokens/s, mixed" in found) is not too_large
        assert found["cosine"] == pytest.approx(1) if "float32" in name else 0.5 < found["cosine"] < 1
    text = (tmp_path / "table.md").read_text()
    best = [
        max(c["tokens/s, 64"] for n, c in cells.items() if "int8" in n and ours == n.startswith("ad"))
        for ours in (1, 0)
    ]
    row = next(line for line in text.splitlines() if line.startswith("| int8, threads 1 |"))
    assert row.split(" | ")[2] == f"{best[0] / best[1]:.2f}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_runtimes_give_the_same_features(tmp_path: Path) -> None:
    make = contestants.usual(contestants.Sizes(64, 1, 64, 1, 16), [4])[EXACT]
    ids = torch.randint(4, 1000, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[1, 6:] = 1
    with torch.no_grad():
        wanted = {
            int8: (quantize(make()) if int8 else make()).eval()(ids, ids.ne(1).long())[0] for int8 in (False, True)
        }
    threads = torch.get_num_threads()
    for runtime, int8 in (("PyTorch", False), ("PyTorch", True), ("ONNX Runtime", False)):
        found = torch.as_tensor(contestants.runner(make, runtime, int8, threads, tmp_path / "a.onnx")(ids))
        torch.testing.assert_close(found[ids.ne(1)], wanted[int8][ids.ne(1)], atol=1e-4, rtol=1e-4)


def test_documents_have_the_lengths_that_are_said() -> None:
    lengths = mixed(1 << 20, 16384)
    assert 64 <= min(lengths) < 70 and 15000 < max(lengths) <= 16384
    assert sorted(lengths)[len(lengths) // 2] == pytest.approx(1024, rel=0.02)  # sqrt(64 * 16384)
    assert sum(lengths) == pytest.approx(1 << 20, rel=0.01) and lengths != sorted(lengths)
