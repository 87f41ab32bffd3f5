"""Two recipes at several sizes: they are trained as the names of cells say, and the tables follow from the curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from fairseq import options

from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.trainings import TOKENS
from linformer_fairseq.paths import RECIPES
from linformer_fairseq.training.recipe import fairseq_train_argv
from recipes.reproduce import scaling
from recipes.reproduce.scaling import ADAM, HEAD, MUON, RATE, SAME, Fit, best, needed, shape, share, trainings


def results(losses: dict[tuple[str, str, int, float], float]) -> dict[str, Any]:
    """As a file of results has them: losses by recipe, size, updates and learning rate."""
    metrics = {"split": "valid", "cpu_seconds": 60.0}
    return {
        "cells": {
            f"{recipe}, {size}, {updates} updates, lr {rate:g}": [metrics | {"perplexity": math.exp(loss)}]
            for (recipe, size, updates, rate), loss in losses.items()
        }
    }


def test_rates_are_those_of_the_recipes_and_sizes_are_settings_of_the_model() -> None:
    for recipe, rate in RATE.items():
        settings = SAME | shape("4x256")
        argv = fairseq_train_argv(RECIPES / f"pretrain/{recipe}.yaml", "DATA", Path("RUN"), settings)
        arguments = options.parse_args_and_arch(options.get_training_parser(), input_args=argv[1:])
        assert arguments.lr == [rate]
        assert arguments.batch_size * arguments.tokens_per_sample == TOKENS
        assert (arguments.encoder_layers, arguments.encoder_embed_dim) == (4, 256)
        assert (arguments.encoder_ffn_embed_dim, arguments.encoder_attention_heads) == (1024, 256 // HEAD)
        assert (arguments.task, arguments.criterion) == ("streaming_masked_lm", "fused_masked_lm")


@pytest.mark.parametrize("size", ["4", "x256", "4x", "0x64", "2x63", "2x0", "two x 64"])
def test_sizes_that_are_none_are_refused(size: str) -> None:
    with pytest.raises(UsageError, match=r"--sizes .*LAYERSxCHANNELS"):
        scaling.area(size)


def test_the_best_rate_counts() -> None:
    found = results({(ADAM, "2x64", 200, 1e-3): 5.0, (ADAM, "2x64", 200, 2e-3): 4.0, (MUON, "2x64", 200, 6e-3): 3.0})
    assert {key: one.rate for key, one in best(found, ADAM).items()} == {("2x64", 200): 2e-3}
    assert [one.loss for one in trainings(found)] == pytest.approx([5.0, 4.0, 3.0])


def test_the_curve_of_losses_that_follow_one_is_found() -> None:
    def loss(size: str, updates: int) -> float:
        return math.exp(3.0) * (12 * scaling.area(size)) ** -0.05 * (updates * TOKENS) ** -0.1

    sizes = [(size, updates) for size in ("2x64", "4x128", "4x256") for updates in (100, 400)]
    found = results({(MUON, size, updates, 6e-3): loss(size, updates) for size, updates in sizes})
    fit = Fit.of(trainings(found))
    assert fit is not None
    assert tuple(fit) == pytest.approx((3.0, 0.05, 0.1, 0.0), abs=1e-6)


def test_one_budget_has_a_table_without_curves() -> None:
    found = results({(name, size, 100, 6e-3): 5.0 for name in RATE for size in ("2x64", "4x256")})
    found |= {"commands": [], "machine": {"device": "a core"}}
    assert Fit.of(trainings(found)) is None
    text = scaling.table(found)
    assert "| 4x256 | 3.15 M | 0.4 M | 148.4 | 148.4 | 1.00 |" in text
    assert "two numbers of --updates" in text


def test_tokens_needed_lie_between_the_budgets() -> None:
    curve = trainings(results({(ADAM, "2x64", 100, 2e-3): 6.0, (ADAM, "2x64", 400, 2e-3): 4.0}))
    assert needed(curve, 6.0) == pytest.approx(100 * TOKENS)
    assert needed(curve, math.sqrt(24)) == pytest.approx(200 * TOKENS)  # half way in both logarithms
    assert needed(curve, 3.9) == math.inf
    ours = trainings(results({(MUON, "2x64", 100, 6e-3): 4.0, (MUON, "2x64", 200, 6e-3): 3.0}))
    assert [share(one, curve) for one in ours] == ["0.25", "< 0.50"]
    worse = trainings(results({(MUON, "2x64", 100, 6e-3): 7.0}))
    assert share(worse[0], curve) == "> 1.00"


@pytest.mark.slow
def test_both_recipes_are_trained(tiny_data: Path, tmp_path: Path) -> None:
    words = [str(tiny_data), "--out", str(tmp_path), "--quick", "--parallel", "2"]
    assert scaling.MEASUREMENT.main(words) == 0
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    assert len(cells) == len(RATE) * 2 * 2
    for name, metrics in cells.items():
        updates = int(name.split(", ")[2].split()[0])
        assert [point["update"] for point in metrics if point["split"] == "valid"][-1] == updates
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
