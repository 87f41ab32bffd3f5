"""The benchmark of one layer at tiny sizes: what it measures, what it leaves out, and what it computes from results."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from linformer_fairseq.measuring.layer_cost import Conditions, Entry, Runner

from linformer_fairseq.measuring import layer_cost, layers
from linformer_fairseq.measuring.layers import Sizes
from recipes.reproduce import table3_efficiency as table3

TINY = "--embed-dim 32 --heads 4 --ffn-dim 64 --tokens 128 --threads 1 --device cpu --rounds 2 --dtypes fp32".split()
GRID = "--lengths 64 --k 16 --linear-lengths 32 64 --linear-k 16 --modes train".split()
SIZES = Sizes(64, 16, 32, 4, 64)
HOW = Conditions("train", "bf16", "cpu", 1, 1, 60.0)


def results_of(out: Path, *words: str) -> dict[str, Any]:
    assert table3.MEASUREMENT.main(["--out", str(out), *TINY, *GRID, *words]) == 0
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run and its results."""
    out = tmp_path_factory.mktemp("table3")
    return out, results_of(out, "--contestants", "ours", "exact", "fairseq")


@pytest.mark.slow
def test_every_cell_has_its_figures(measured: tuple[Path, dict[str, Any]]) -> None:
    out, results = measured
    cells = results["cells"]
    entries = cells["time-n64-k16-fp32-train"]["entries"]
    assert list(entries) == ["ours", "exact", "fairseq"]
    assert all(len(table3.seconds(entry)) == 2 for entry in entries.values())
    assert list(cells["linear-k16-64-tokens-fp32-train"]["entries"]) == ["32", "64"]
    if sys.platform == "linux":
        assert cells["memory-exact-n64-128-tokens-fp32-train"]["entries"]["exact"]["bytes"] > 0
    lines = (out / "table.md").read_text().splitlines()
    header = "| n | k | ours (least–greatest) | exact | fairseq | rounds |"
    assert lines[lines.index(header) + 2].startswith("| 64 | 16 | ")
    assert "## Peak memory: forward and backward, fp32" in lines
    assert (out / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_is_measured_again_with_all_its_contestants_for_a_new_one(
    measured: tuple[Path, dict[str, Any]],
) -> None:
    out = measured[0]
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*.json")}
    results_of(out, "--contestants", "ours", "exact")
    assert {path: path.stat().st_mtime_ns for path in out.glob("cells/*.json")} == before
    results = results_of(out, "--contestants", "plain", "--kinds", "time")
    changed = {path.stem for path in out.glob("cells/*.json") if path.stat().st_mtime_ns != before.get(path)}
    assert changed == {"time-n64-k16-fp32-train"}
    entries = results["cells"]["time-n64-k16-fp32-train"]["entries"]
    assert set(entries) == {"plain", "ours", "exact", "fairseq"}


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    table3.flags(parser)
    return parser.parse_args(words)


def test_quick_has_the_cells_that_the_readme_shows() -> None:
    names = list(table3.grid(options("--quick", "--modes", "train", "--tokens", "4096")))
    for dtype in ("fp32", "bf16"):
        assert f"linear-k256-65536-tokens-{dtype}-train" in names
        assert f"memory-exact-n16384-16384-tokens-{dtype}-train" in names
        assert f"time-n32768-k256-{dtype}-train" in names


def test_the_grid_is_the_papers() -> None:
    cells = table3.grid(options("--dtypes", "fp32", "--modes", "forward", "--kinds", "time", "--contestants", "ours"))
    found = [(entries["ours"].sizes.n, entries["ours"].sizes.k) for _, _, _, entries in cells.values()]
    assert found == [(n, k) for n, (times, _) in table3.PAPER.items() for k in table3.KS[: len(times)]]
    assert table3._paper(table3.MEMORY, "plain", 4096, 256) == 13
    assert table3._paper(table3.TIME, "plain", 512, 512) is None


@pytest.mark.parametrize("name", layers.DEFAULT)
def test_each_contestant_gives_gradients_to_its_input_and_parameters(name: str) -> None:
    if layers.missing(name):
        pytest.skip(f"{name}: {layers.missing(name)}")
    runner = Runner(Entry(name, SIZES, 128), HOW, (torch.randn(128 * 32), torch.randn(128 * 32)))
    runner.step()
    assert runner.x.grad is not None and runner.x.grad.shape == runner.x.shape
    # fairseq's shared matrix has a bias that its forward never uses.
    lacking = [key for key, parameter in runner.layer.named_parameters() if parameter.grad is None]
    assert lacking == (["layer.self_attn.compress_k.bias"] if name == "fairseq-shared" else [])


def test_what_does_not_fit_or_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layer_cost, "free_bytes", lambda device: 1000)
    found = layer_cost.measure("time", {name: Entry(name, SIZES, 128) for name in ("ours", "plain")}, HOW)
    assert found["ours"]["seconds"][0] > 0 and found["plain"]["skipped"].startswith("needs about")
    monkeypatch.setattr(layers, "find_spec", lambda name: None)
    assert layers.missing("lucidrains") == "not installed: pip install --no-deps linformer==0.2.3"
    assert not any("lucidrains" in name for name in table3.grid(options("--contestants", "lucidrains")))


def test_ratios_are_of_the_same_round() -> None:
    ours, exact = ({"tokens": 4096, "seconds": seconds} for seconds in ([1.0, 2.0, 4.0], [3.0, 4.0, None]))
    assert table3.time_ratio(ours, exact) == 2.5
