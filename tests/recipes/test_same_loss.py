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
    plain, ours, bf16 = json.loads((tmp_path / "report.json").read_text())["cells"].values()
    largest = "largest relative difference over 5 updates"
    assert plain[largest] == 0 < ours[largest] < 1e-5 < bf16[largest] < 0.02
    assert ours["validation perplexity at the end"] == pytest.approx(
        plain["validation perplexity at the end"], rel=1e-3
    )
    assert all(f"| {name} | " in (tmp_path / "report.md").read_text() for name in same_loss.TRAININGS)
