"""Loss curves of fairseq's loss and optimizer beside ours, by real trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.measure import same_loss


@pytest.mark.slow
def test_three_trainings_and_their_report(tiny_data: Path, tmp_path: Path) -> None:
    words = [str(tiny_data), "--quick", "--out", str(tmp_path / "runs"), "--report", str(tmp_path / "report.md")]
    assert same_loss.MEASUREMENT.main(words) == 0
    text = (tmp_path / "report.md").read_text()
    assert all(f"| {name} | " in text for name in same_loss.TRAININGS)
    plain, ours, bf16 = json.loads((tmp_path / "report.json").read_text())["cells"].values()
    assert len(plain["losses"]) == 5
    assert ours["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert bf16["losses"] == pytest.approx(plain["losses"], rel=0.02) and bf16["losses"] != ours["losses"]


def test_a_curve_that_departs_is_seen() -> None:
    curves = [([10.0, 9.0], 60.0), ([10.0, 9.01], 60.0), ([10.0, 9.0], 61.0)]
    pairs = zip(same_loss.TRAININGS, curves, strict=True)
    cells = {name: {"losses": losses, "perplexity": perplexity} for name, (losses, perplexity) in pairs}
    settings = {"updates": 2, "batch_size": 8}
    text = same_loss.table({"cells": cells, "settings": settings, "commands": [], "machine": {"device": "x"}})
    assert "Over 2 updates the largest relative difference of the first two curves is 1.1e-03." in text
    assert "1.0167 times" in text
