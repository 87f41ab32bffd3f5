"""Whole updates beside fairseq's example: real trainings at a tiny size, and the report of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from linformer_fairseq.measuring.trainings import with_symbols
from recipes.measure import update_speed
from recipes.measure.update_speed import CONTESTANTS


def test_pads_a_dictionary_but_not_the_text(tiny_data: Path, tmp_path: Path) -> None:
    from fairseq.data import Dictionary

    for _ in range(2):
        folder = with_symbols(tiny_data, 500, tmp_path / "padded")
    padded, given = (Dictionary.load(str(data / "dict.txt")) for data in (folder, tiny_data))
    assert len(padded) + 1 == 500  # and <mask>
    assert padded.symbols[: len(given)] == given.symbols
    assert (folder / "train.bin").read_bytes() == (tiny_data / "train.bin").read_bytes()


def run_of(seconds: float) -> dict[str, Any]:
    return {"seconds": [99.0, seconds, seconds], "tokens": [4096] * 4, "parameters": 1, "peak_bytes": 1}


def test_the_ratio_is_the_median_of_those_within_rounds() -> None:
    """And not the ratio of medians: the second round ran on a busy machine."""
    rounds = dict(zip(CONTESTANTS, [(2.0, 8.0, 2.0), (1.6, 5.0, 1.6), (1.1, 4.4, 1.1)], strict=True))
    cells = {f"n = 512, {name}, round {i}": run_of(s) for name, found in rounds.items() for i, s in enumerate(found)}
    stored = Path(__file__).resolve().parents[2] / "docs/benchmarks/updates/results.json"
    results = json.loads(stored.read_text()) | {"cells": cells}
    results["settings"]["warm_up"] = 2
    text = update_speed.table(results)
    assert "| 512 | fairseq's example, fp32 | 2.00 | 2,048 | 1.00 | 1.00-1.00 | 0.0 |" in text
    assert "| 512 | ours, fp32 | 1.60 | 2,560 | 1.25 | 1.25-1.60 | 0.0 |" in text
    assert "| 512 | ours, bf16 | 1.10 | 3,724 | 1.82 | 1.82-1.82 | 0.0 |" in text


@pytest.mark.slow
def test_three_contestants_train(tiny_data: Path, tmp_path: Path) -> None:
    words = [str(tiny_data), "--quick", "--threads", "1", "--out", str(tmp_path / "runs")]
    assert update_speed.MEASUREMENT.main([*words, "--report", str(tmp_path / "report.md")]) == 0
    cells = json.loads((tmp_path / "report.json").read_text())["cells"]
    theirs, ours, _ = (cells[f"n = 32, {name}, round 0"]["losses"][-1] for name in CONTESTANTS)
    assert theirs == pytest.approx(ours, rel=0.2)  # another start, the same text
    for name in CONTESTANTS:
        log = (tmp_path / f"runs/trainings/n32 {name}.log").read_text()
        assert ("fused_adamw" in log) is (name != update_speed.THEIRS)
    assert "| 32 | ours, bf16 | " in (tmp_path / "report.md").read_text()
