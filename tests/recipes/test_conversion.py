"""The measurement of conversions: its figures, its report, and a short run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fairseq.data import Dictionary

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, untrained, write
from recipes.measure import conversion
from recipes.measure.conversion import table, updates_until

WARM = {"start": 80.0, "curve": [[20, 60.0], [40, 51.0], [60, 49.0]], "seconds": 3.2, "errors": [0.5, 0.1]}
COLD = {"start": None, "curve": [[500, 90.0], [1000, 52.0]], "seconds": 0.1, "errors": []}


def test_the_first_validation_that_is_near_enough_counts() -> None:
    assert updates_until(WARM, 51.0) == 40
    assert updates_until(WARM, 80.0) == 0
    assert updates_until(COLD, 51.0) is None
    assert updates_until(COLD, 90.0) == 500


def test_the_table_has_a_row_for_each_way() -> None:
    cells = {"original": {"ppl": 50.0, "updates": 1000}, "SVD": WARM, "from scratch": COLD}
    settings = {"projected_length": "128", "projection_sharing": "layerwise"}
    lines = table({"cells": cells, "settings": settings}).splitlines()
    assert lines[0].startswith("The original: perplexity 50.0 after 1,000 updates. k = 128")
    assert lines[-2:] == [
        "| SVD | 3 | 80.0 | 40 | 4.0% | 49.0 | 60 |",
        "| from scratch |  |  | not reached |  | 52.0 | 1,000 |",
    ]


def trained(data: Path, path: Path, **model: Any) -> str:
    """A checkpoint of a tiny model that says that it had 9 updates."""
    settings = {"_name": "linformer_roberta_tiny", "dropout": 0.0, "attention_dropout": 0.0, **model}
    size = len(Dictionary.load(str(data / "dict.txt"))) + 1
    task = {"tokens_per_sample": settings.get("max_positions", 512), "data": str(data)}
    write(Checkpoint(untrained(settings, size).state_dict(), settings, task, 9), path)
    return str(path)


@pytest.mark.slow
def test_a_roberta_is_measured_once_and_in_pieces(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = trained(tiny_data, tmp_path / "a.pt", attention="exact", max_positions=64, encoder_layers=1)
    words = [str(tiny_data), source, "--out", str(tmp_path / "run"), "--quick", "--projected-length", "16"]
    assert conversion.MEASUREMENT.main([*words, "--ways", "SVD, transfer"]) == 0
    first = capsys.readouterr().out
    assert "| SVD, transfer |" in first and "| from scratch |" not in first
    assert conversion.MEASUREMENT.main([*words, "--ways", "from scratch"]) == 0
    cells = json.loads((tmp_path / "run/results.json").read_text())["cells"]
    warm, cold = cells["SVD, transfer"], cells["from scratch"]
    assert cells["original"]["updates"] == 9
    assert [update for update, _ in warm["curve"]] == [1, 2] and warm["start"] > 1 and len(warm["errors"]) == 2
    assert cold["curve"][-1][0] == 3 and cold["start"] is None

    monkeypatch.setattr("linformer_fairseq.measuring.trainings.run_logged", None)  # a second time nothing is run
    capsys.readouterr()
    assert conversion.MEASUREMENT.main([*words, "--ways", "SVD, transfer", "from scratch"]) == 0
    assert "| SVD, transfer |" in capsys.readouterr().out
