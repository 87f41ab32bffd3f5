"""The perplexity study: fairseq understands its variants, and trains them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fairseq import options

from linformer_fairseq.measuring.trainings import RECIPE, TOKENS
from linformer_fairseq.training.recipe import fairseq_train_argv
from recipes.reproduce import figure3_perplexity as study


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
