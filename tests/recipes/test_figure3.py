"""The perplexity study: its curves, its table, its commands."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fairseq import options

from linformer_fairseq.training.recipe import fairseq_train_argv
from recipes.reproduce import figure3_report

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """A script of recipes/reproduce as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"recipes/reproduce/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


study = load("figure3_perplexity")


def point(update: float, ppl: float, seconds: float, split: str = "valid") -> dict[str, Any]:
    """One point of a curve."""
    return {"num_updates": update, "split": split, "loss": 1.0, "ppl": ppl, "cpu_seconds": seconds}


CURVE = [point(10 * n, 1024 / 2**n, 60 * n) for n in range(1, 9)]


def test_of_an_update_done_twice_the_later_point_counts(tmp_path: Path) -> None:
    points = [point(10, 90, 5), point(20, 80, 9), point(20, 70, 12), point(20, 75, 13, "train"), point(30, 60, 20)]
    (tmp_path / study.CURVE).write_text("".join(json.dumps(p) + "\n" for p in points))
    assert study.read_curve(tmp_path) == [points[0], points[3], points[2], points[4]]


def test_a_run_not_begun_has_no_points(tmp_path: Path) -> None:
    assert study.read_curve(tmp_path) == []


@pytest.mark.parametrize(
    ("seconds", "perplexity"),
    [(120, 256), (150, 256 / 2**0.5), (0, 512), (60, 512), (480, 4), (9999, 4)],
)
def test_perplexity_between_points_and_beyond_them(seconds: float, perplexity: float) -> None:
    training = [point(15, 1e9, 75, "train")]
    assert figure3_report.perplexity_at(CURVE + training, seconds) == pytest.approx(perplexity)


def test_the_table_has_a_row_for_each_variant() -> None:
    slow = [{**p, "ppl": 2 * p["ppl"], "cpu_seconds": 2 * p["cpu_seconds"]} for p in CURVE]
    lines = figure3_report.table({"Linformer": CURVE, "exact attention": slow}, tokens_per_update=100_000).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "3 M tokens", "5 M tokens", "8 M tokens", "at 8 min", "minutes for all"]
    assert cells[2] == ["Linformer", "128.0", "32.0", "4.0", "4.0", "8"]
    assert cells[3] == ["exact attention", "256.0", "64.0", "8.0", "128.0", "16"]
    assert len(cells) == 4


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    figure3_report.write_report({"Linformer": CURVE}, 4096, tmp_path / "report")
    record = json.loads((tmp_path / "report/results.json").read_text())
    assert record["curves"] == {"Linformer": CURVE} and record["torch"]
    assert (tmp_path / "report/curves.png").read_bytes().startswith(b"\x89PNG")
    assert "Linformer" in (tmp_path / "report/table.md").read_text()


@pytest.mark.parametrize("variant", study.VARIANTS)
def test_fairseq_understands_each_variant(variant: str) -> None:
    argv = fairseq_train_argv(study.RECIPE, "DATA", Path("RUN"), study.VARIANTS[variant])
    arguments = options.parse_args_and_arch(options.get_training_parser(), input_args=argv[1:])
    assert arguments.batch_size * arguments.tokens_per_sample == study.TOKENS_PER_UPDATE
    assert (arguments.encoder_layers, arguments.encoder_embed_dim, arguments.encoder_attention_heads) == (2, 128, 4)
    if arguments.arch == "roberta":
        assert variant == "fairseq's roberta"
        return
    assert (arguments.local_conv > 0) == ("local conv" in variant)
    attention = next((name for name in ("exact", "none") if variant.startswith(name.replace("none", "no "))), None)
    assert getattr(arguments, "attention", "linformer") == (attention or "linformer")


def test_each_variant_has_a_folder_of_its_own() -> None:
    assert study.folder_name("Linformer + local conv") == "linformer-local-conv"
    assert len({study.folder_name(variant) for variant in study.VARIANTS}) == len(study.VARIANTS)
