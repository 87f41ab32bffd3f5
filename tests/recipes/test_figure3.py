"""The perplexity study: its curves, its table, its commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fairseq import options

from linformer_fairseq.measuring.trainings import RECIPE, TOKENS
from linformer_fairseq.training.recipe import fairseq_train_argv
from recipes.reproduce import figure3_perplexity as study


def point(update: int, perplexity: float, seconds: float, split: str = "valid") -> dict[str, Any]:
    """One point of a curve."""
    return {"update": update, "split": split, "loss": 1.0, "perplexity": perplexity, "cpu_seconds": seconds}


CURVE = [point(10 * n, 1024 / 2**n, 60 * n) for n in range(1, 9)]


@pytest.mark.parametrize(
    ("seconds", "perplexity"),
    [(120, 256), (150, 256 / 2**0.5), (0, 512), (60, 512), (480, 4), (9999, 4)],
)
def test_perplexity_between_points_and_beyond_them(seconds: float, perplexity: float) -> None:
    assert study.perplexity_at(CURVE, seconds) == pytest.approx(perplexity)


def test_the_table_has_a_row_for_each_variant() -> None:
    slow = [{**p, "perplexity": 2 * p["perplexity"], "cpu_seconds": 2 * p["cpu_seconds"]} for p in CURVE]
    training = [point(25, 1e9, 75, "train")]
    lines = study.table({"cells": {"exact attention": slow, "Linformer": CURVE + training}}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "0 M tokens", "0 M tokens", "0 M tokens", "at 8 min", "minutes for all"]
    assert cells[2] == ["Linformer", "128.0", "32.0", "4.0", "4.0", "8"]
    assert cells[3] == ["exact attention", "256.0", "64.0", "8.0", "128.0", "16"]
    assert len(cells) == 4


def test_of_several_seeds_the_table_has_median_and_range() -> None:
    seeds = {1: CURVE, 2: [{**p, "perplexity": 3 * p["perplexity"]} for p in CURVE], 3: CURVE}
    table = study.table({"cells": {study.cell("exact attention", seed): curve for seed, curve in seeds.items()}})
    assert "| exact attention | 128.0 (128.0-384.0) | 32.0 (32.0-96.0) | 4.0 (4.0-12.0) | 4.0 (4.0-12.0) | 8 |" in table


@pytest.mark.parametrize("variant", study.VARIANTS)
def test_fairseq_understands_each_variant(variant: str) -> None:
    argv = fairseq_train_argv(RECIPE, "DATA", Path("RUN"), study.VARIANTS[variant])
    arguments = options.parse_args_and_arch(options.get_training_parser(), input_args=argv[1:])
    assert arguments.batch_size * arguments.tokens_per_sample == TOKENS
    assert (arguments.encoder_layers, arguments.encoder_embed_dim, arguments.encoder_attention_heads) == (2, 128, 4)
    if arguments.arch == "roberta":
        assert variant == "fairseq's roberta"
        return
    assert (arguments.local_conv > 0) == ("local conv" in variant)
    attention = next((name for name in ("exact", "none") if variant.startswith(name.replace("none", "no "))), None)
    assert getattr(arguments, "attention", "linformer") == (attention or "linformer")
    assert (getattr(arguments, "projection", None) == "adaptive") == variant.startswith("adaptive")
    assert (getattr(arguments, "local_window", 0) > 0) == ("window" in variant)


@pytest.mark.slow
def test_two_variants_are_trained_beside_each_other(tiny_data: Path, tmp_path: Path) -> None:
    words = [str(tiny_data), "--out", str(tmp_path), "--quick", "--parallel", "2"]
    assert study.MEASUREMENT.main([*words, "--variants", "Linformer", "no attention", "--seeds", "2"]) == 0
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert set(cells) == {"Linformer", "no attention", "Linformer, seed 2", "no attention, seed 2"}
    for curve in cells.values():
        valid = [p for p in curve if p["split"] == "valid"]
        assert {p["update"] for p in valid} >= set(range(2, 21, 2))
        assert 0 < valid[0]["cpu_seconds"] < valid[-1]["cpu_seconds"]
        assert valid[-1]["perplexity"] < valid[0]["perplexity"]
