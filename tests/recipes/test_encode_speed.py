"""The benchmark measures every way of encoding and reports it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.measure import encode_speed
from recipes.measure.encode_speed import documents


@pytest.mark.slow
def test_all_ways_are_measured_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_speed, "ATTENTIONS", ("exact",))
    words = ["--quick", "--documents", "6", "--n", "64", "--k", "16", "--batch-tokens", "300", "--threads", "1"]
    assert encode_speed.MEASUREMENT.main([*words, "--device", "cpu", "--out", str(tmp_path)]) == 0
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert len(cells) == 9 and all(cell["tokens/s"] > 0 for cell in cells.values())
    assert 0.9 < cells["exact, int8, length-bucketed, round 0"]["cosine"] < 1
    assert cells["exact, float32, length-bucketed, round 0"]["cosine"] == pytest.approx(1)
    assert "| exact, int8, length-bucketed | " in (tmp_path / "table.md").read_text()


def test_documents_have_the_lengths_that_are_said() -> None:
    lengths = [len(ids) for ids in documents(2000, 4096)]
    assert min(lengths) >= 16 and max(lengths) <= 4096 and 200 < sorted(lengths)[1000] < 330  # sqrt(16 * 4096) is 256
