"""The measurement of longer inputs, on a model that has learnt nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, complete_settings, symbols, write
from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel
from recipes.measure import extend_positions


@pytest.mark.slow
def test_every_way_is_measured_once(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"_name": "linformer_roberta_tiny", "dropout": 0.0, "attention_dropout": 0.0}
    settings = complete_settings(model)
    size = len(Dictionary.load(str(tiny_data / "dict.txt"))) + 1
    torch.manual_seed(0)
    built = LinformerRobertaModel(settings, LinformerRobertaEncoder(settings, symbols(size)))
    source = tmp_path / "a.pt"
    write(Checkpoint(built.state_dict(), model, {"tokens_per_sample": 512, "data": str(tiny_data)}, 9), source)
    words = [str(tiny_data), str(source), "--quick", "--out", str(tmp_path / "run")]
    words += ["--report", str(tmp_path / "report.md")]
    assert extend_positions.MEASUREMENT.main(words) == 0
    report = (tmp_path / "report.md").read_text()
    rows = {line.split("|")[2].strip(): line.split("|") for line in report.splitlines() if line.startswith("| 1024")}
    assert list(rows) == ["keep", "interpolate", "tile", "from scratch"]
    original = float(report.split("perplexity ")[1].split(". ")[0])
    assert float(rows["keep"][3]) == original and all(float(cell) > 1 for cell in rows["keep"][3:7])

    monkeypatch.setattr("linformer_fairseq.measuring.trainings.run_logged", None)  # a second time nothing is run
    assert extend_positions.MEASUREMENT.main(words) == 0
    assert (tmp_path / "report.md").read_text() == report


def test_the_table_leaves_out_what_cannot_be() -> None:
    cells = {
        "original": {"length": 512, "updates": 1500, "perplexity": 80.0},
        "2048, tile": [80.04, 120.0, 79.0, 70.0],
        "2048, from scratch": [None, None, 900.0, 800.0],
    }
    lines = extend_positions.table({"cells": cells, "settings": {"updates": 200}}).splitlines()
    assert lines[0] == "The checkpoint: 1500 updates at 512 tokens, perplexity 80.0. An update has 4,096 tokens."
    assert lines[-2:] == [
        "| 2048 | tile | 80.0 | 120.0 | 79.0 | 70.0 |",
        "| 2048 | from scratch |  |  | 900.0 | 800.0 |",
    ]
