"""The memory of a GPU that a recipe needs, and what the recipes say about it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.planning.memory import training_bytes
from linformer_fairseq.planning.plan import plan_of
from linformer_fairseq.training.flops import encoder_flops, head_flops
from linformer_fairseq.training.recipe import fairseq_train_argv, find_recipe

BENCHMARKS = Path(__file__).resolve().parents[2] / "docs/benchmarks/index.md"
RECIPES = ("base_n512_k128", "base_n512_k256", "base_n4096_k256", "base_n512_k128_muon", "base_n4096_k256_muon")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_their_gpu_and_say_what_is_computed(name: str) -> None:
    plan = plan_of(fairseq_train_argv(find_recipe(name), "DATA", Path("RUN")), "v100-16gb", 64, symbols=50265)
    cfg = plan.cfg
    about = find_recipe(name).read_text()
    recipe = yaml.safe_load(about)
    optimizer = "muon" if "muon" in name else "fused_adamw"
    assert (recipe["optimizer"]["_name"], recipe["criterion"]["_name"]) == (optimizer, "fused_masked_lm")
    assert not cfg.checkpoint_activations  # there is room for all
    computed = sum(plan.memory.values()) / 1e9
    peak, budget = map(float, re.search(r"# Memory +([\d.]+) of ([\d.]+) GB", about).groups())
    assert peak == round(computed, 1) and computed < 0.9 * budget

    share, updates = recipe["task"]["mask_prob"], recipe["optimization"]["max_update"]
    masked = share * cfg.max_positions
    update = encoder_flops(cfg, 2**20 / cfg.max_positions, cfg.max_positions, masked) + head_flops(cfg, share * 2**20)
    operations, hours = re.search(r"Arithmetic: (\S+) operations, (\d+) hours", about).groups()
    assert operations == f"{updates * update:.1e}".replace("+", "")
    assert int(hours) == round(updates * update / (64 * 125e12 * 0.3) / 3600)
    assert f"| `{name}` | 64 V100 | {hours} h (computed) |" in BENCHMARKS.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["base_n512_k128", "base_n4096_k256"])
def test_a_step_took_on_a_gpu_what_is_computed(name: str) -> None:
    """What an H100 measured: the encoder's step in float16, before the optimizer had moments."""
    measured = json.loads((BENCHMARKS.parent / "gpu/h100.json").read_text())["speed"][name]["GB"]
    plan = plan_of(fairseq_train_argv(find_recipe(name), "DATA", Path("RUN")), "v100-16gb", 1, symbols=50265)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in LinformerEncoder(plan.cfg).parameters())
    weights = parameters * (2 + 2 + 4 + 4)  # and gradients, in 16 and in 32 bit
    computed = (weights + plan.memory["activations"] + plan.memory["loss"]) / 1e9
    assert computed == pytest.approx(measured, rel=0.1)


def test_activations_grow_with_the_batch_and_shrink_when_they_are_recomputed() -> None:
    cfg = EncoderConfig(vocab_size=100, max_positions=128, embed_dim=32, ffn_dim=64, num_heads=2, num_layers=2)
    one, two = training_bytes(cfg, 1), training_bytes(cfg, 2)
    assert one["parameters"] == two["parameters"]
    assert two["activations"] == pytest.approx(2 * one["activations"], rel=0.05)
    # Of a layer at least the input, q, the attended values, both sums and twice the inner channels of 16 bit
    assert one["activations"] > 2 * 128 * (4 * 32 + 2 * 64) * 2
    again = training_bytes(replace(cfg, checkpoint_activations=True), 1)
    assert again["activations"] < 0.5 * one["activations"]
