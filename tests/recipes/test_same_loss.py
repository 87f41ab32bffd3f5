"""Loss curves of fairseq's loss and optimizer beside ours, by real trainings."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.reproduce import same_loss


@pytest.mark.slow
def test_three_trainings_and_their_report(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [str(tiny_data), "--out", str(tmp_path / "runs"), "--report", str(tmp_path / "report.md")]
    argv += ["--updates", "5", "--batch-size", "2"]
    same_loss.main(argv)
    text = (tmp_path / "report.md").read_text()
    assert text.count("| met |") == 2
    assert all(f"| {name} | " in text for name in same_loss.TRAININGS)
    # What has been trained is not trained again.
    monkeypatch.setattr(same_loss, "run_logged", None)
    same_loss.main(argv)
    assert (tmp_path / "report.md").read_text() == text


def test_a_curve_that_departs_is_seen(tmp_path: Path) -> None:
    def lines(losses: list[float], perplexity: float) -> list[dict[str, object]]:
        curve: list[dict[str, object]] = [{"split": "train", "loss": loss} for loss in losses]
        return [*curve, {"split": "valid", "perplexity": perplexity}]

    options = same_loss.argparse.Namespace(updates=2, batch_size=8)
    found = {"plain": lines([10.0, 9.0], 60.0), "ours": lines([10.0, 9.01], 60.0), "bf16": lines([10.0, 9.0], 61.0)}
    text = same_loss.report(found, options, "command")
    assert "over 2 updates | 1e-05 | 1.1e-03 | **not met** |" in text
    assert "| 1.01 | 1.0167 | **not met** |" in text
