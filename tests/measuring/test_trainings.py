"""Curves and tables of trainings that differ in settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from linformer_fairseq.measuring import trainings
from linformer_fairseq.measuring.trainings import Ladder, cell, perplexity_at

LADDER = Ladder({"Linformer": {}, "exact attention": {}, "small batch": {trainings.BATCH: 2}}, lambda name: "-")


def point(update: int, perplexity: float, seconds: float, split: str = "valid") -> dict[str, Any]:
    """One point of a curve."""
    return {"update": update, "split": split, "loss": 1.0, "perplexity": perplexity, "cpu_seconds": seconds}


CURVE = [point(10 * n, 1024 / 2**n, 60 * n) for n in range(1, 9)]


@pytest.mark.parametrize(
    ("seconds", "perplexity"),
    [(120, 256), (150, 256 / 2**0.5), (0, 512), (60, 512), (480, 4), (9999, 4)],
)
def test_perplexity_between_points_and_beyond_them(seconds: float, perplexity: float) -> None:
    assert perplexity_at(CURVE, seconds) == pytest.approx(perplexity)


def test_the_table_has_a_row_for_each_variant() -> None:
    slow = [{**p, "perplexity": 2 * p["perplexity"], "cpu_seconds": 2 * p["cpu_seconds"]} for p in CURVE]
    training = [point(25, 1e9, 75, "train")]
    lines = LADDER.table({"cells": {"exact attention": slow, "Linformer": CURVE + training}}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "0.1 M tokens", "0.2 M tokens", "0.3 M tokens", "at 8 min", "minutes for all"]
    assert cells[2] == ["Linformer", "128.0", "32.0", "4.0", "4.0", "8"]
    assert cells[3] == ["exact attention", "256.0", "64.0", "8.0", "128.0", "16"]
    assert len(cells) == 4


def test_of_several_seeds_the_table_has_median_and_range() -> None:
    seeds = {1: CURVE, 2: [{**p, "perplexity": 3 * p["perplexity"]} for p in CURVE], 3: CURVE}
    table = LADDER.table({"cells": {cell("exact attention", seed): curve for seed, curve in seeds.items()}})
    assert "| exact attention | 128.0 (128.0-384.0) | 32.0 (32.0-96.0) | 4.0 (4.0-12.0) | 4.0 (4.0-12.0) | 8 |" in table


def test_smaller_batches_make_more_updates_of_as_many_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = {}

    def train(data: Path, run: Path, settings: dict[str, Any], label: str, recipe: Path) -> list[Any]:
        found.update(settings)
        return [point(400, 8.0, 1) | {"seconds": 1.0}]

    monkeypatch.setattr(trainings, "train", train)
    trainings.train_variant("small batch", LADDER.variants["small batch"], tmp_path, tmp_path, updates=100)
    assert found["optimization.max_update"] == found["lr_scheduler.total_num_update"] == 400
    assert 400 * LADDER.tokens("small batch") == pytest.approx(100 * LADDER.tokens("Linformer"))
