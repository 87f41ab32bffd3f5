"""The measurement of LoRA: what is trained on which rows, and how the learning rates are chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linformer_fairseq.cli import main
from linformer_fairseq.finetuning.heads import Feature, Steps
from recipes.measure import lora


class Noted(Steps):
    """Trains nothing, but notes the way, its rate and seed, and how many rows it has."""

    found: list[tuple[str, float, int, int]] = []

    def epoch(self, number: int) -> None:
        trained = [name for name, p in self.model.named_parameters() if p.requires_grad]
        way = lora.LORA if any("lora_" in name for name in trained) else lora.FULL
        assert way == lora.FULL or all("lora_" in name or "classifier" in name for name in trained)
        Noted.found.append((way, self.run.lr, self.run.seed, len(self.features)))


def test_both_ways_are_tuned_on_held_out_rows_and_scored_on_the_dev_set(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "SST-2").mkdir()
    for name, rows in (("train", 20), ("dev", 6)):
        lines = [f"the {('bad', 'good')[i % 2]} book\t{i % 2}" for i in range(rows)]
        (tmp_path / f"SST-2/{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    assert main(["convert", "to-hf", str(checkpoint), str(tmp_path / "model")]) == 0

    def predict(model: Any, scored: Sequence[Feature]) -> list[Any]:
        """All right with the second rate of a way, all wrong with the others."""
        way, lr, *_ = Noted.found[-1]
        return [np.eye(2)[row["labels"] if lr == lora.RATES[way][1] else 1 - row["labels"]] for row in scored]

    monkeypatch.setattr(lora, "Steps", Noted)
    monkeypatch.setattr(lora, "predict", predict)
    words = [str(tmp_path / "model"), "--glue-dir", str(tmp_path), "--out", str(tmp_path / "run"), "--epochs", "1"]
    assert lora.MEASUREMENT.main([*words, "--rows", "21", "--held-out", "5"]) == 1
    assert lora.MEASUREMENT.main([*words, "--rows", "16", "--held-out", "5", "--rounds", "2"]) == 0
    tried = [(way, lr, 0, 11) for way, rates in lora.RATES.items() for lr in rates]
    assert Noted.found == tried + [(way, rates[1], seed, 16) for seed in (0, 1) for way, rates in lora.RATES.items()]
    cells = json.loads((tmp_path / "run/results.json").read_text())["cells"]
    assert [cells[f"{way}, round 1"][lora.DEV] for way in lora.RATES] == [100, 100]
    assert [cells[f"{way}, lr {rates[0]:g}"][lora.HELD_OUT] for way, rates in lora.RATES.items()] == [0, 0]
    full, adapters = (cells[f"{way}, round 0"]["trained parameters"] for way in (lora.FULL, lora.LORA))
    assert adapters < full / 2
