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
    monkeypatch.setattr(extend_positions, "WAYS", ("keep", extend_positions.SCRATCH))  # each takes six processes
    words = [str(tiny_data), str(source), "--quick", "--out", str(tmp_path / "run")]
    words += ["--report", str(tmp_path / "report.md")]
    assert extend_positions.MEASUREMENT.main(words) == 0
    report = (tmp_path / "report.md").read_text()
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in report.splitlines() if line.startswith("| ")}
    assert list(rows)[2:] == [
        *("the checkpoint, 9 updates at 512", "1024, keep", "1024, from scratch"),
    ]
    original, kept = rows["the checkpoint, 9 updates at 512"], rows["1024, keep"]
    assert kept[0] == original[0] and all(float(cell.replace(",", "")) > 1 for cell in kept)
    assert [cell.strip() == "" for cell in rows["1024, from scratch"]] == [True, True, False, False]

    monkeypatch.setattr("linformer_fairseq.measuring.trainings.run_logged", None)  # a second time nothing is run
    assert extend_positions.MEASUREMENT.main(words) == 0
    assert (tmp_path / "report.md").read_text() == report
