"""The benchmark of one layer at tiny sizes: what it measures, what it leaves out, and what it computes from results."""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.measuring import layers
from linformer_fairseq.measuring.layers import Entry, Runner
from linformer_fairseq.measuring.study import rounds_of
from recipes.reproduce import table3_efficiency as table3

TINY = "--embed-dim 32 --heads 4 --ffn-dim 64 --tokens 128 --threads 1 --device cpu --rounds 2 --dtypes fp32".split()
GRID = "--lengths 64 --k 16 --modes train".split()


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
    for name in ("ours", "exact", "fairseq"):
        rounds = rounds_of(cells, f"time, {name}, n = 64, k = 16, 128 tokens, fp32, train")
        assert len(rounds) == 2 and all(found["seconds"] > 0 for found in rounds)
    if sys.platform == "linux":
        assert cells["memory, exact, n = 64, k = 0, 128 tokens, fp32, train, round 0"]["bytes"] > 0
    lines = (out / "table.md").read_text().splitlines()
    header = "| n | k | ours (least–greatest) | exact | fairseq | rounds |"
    assert lines[lines.index(header) + 2].startswith("| 64 | 16 | ")
    assert "## Peak memory: forward and backward, fp32" in lines
    assert (out / "speed.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_contestant_may_come_later(measured: tuple[Path, dict[str, Any]]) -> None:
    out = measured[0]
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*.json")}
    results_of(out, "--contestants", "ours", "plain", "--kinds", "time", "--budget", "0.000001")
    after = {path.stem: path.stat().st_mtime_ns == before.get(path) for path in out.glob("cells/*.json")}
    assert [name for name, kept in after.items() if not kept] == [
        "time-plain-n-64-k-16-128-tokens-fp32-train-round-0"  # and no other round: its budget is spent
    ]


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    table3.MEASUREMENT.flags(parser, "--quick" in words)
    return parser.parse_args(words)


def test_quick_has_the_cells_that_the_site_shows() -> None:
    names = list(table3.grid(options("--quick", "--modes", "train", "--tokens", "4096")))
    for dtype in ("fp32", "bf16"):
        assert f"memory, exact, n = 16384, k = 0, 16384 tokens, {dtype}, train" in names
        assert f"time, exact, n = 32768, k = 256, 32768 tokens, {dtype}, train" in names
        assert f"memory, exact, n = 32768, k = 0, 32768 tokens, {dtype}, train" not in names


@pytest.mark.parametrize(("capability", "dtype"), [((7, 0), "fp16"), ((8, 0), "bf16")])
def test_a_gpu_is_measured_in_the_16_bit_that_it_has(
    capability: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert runpy.run_path(table3.__file__)["HALF"] == dtype


def test_the_grid_is_the_papers() -> None:
    cells = table3.grid(options("--dtypes", "fp32", "--modes", "forward", "--kinds", "time", "--contestants", "ours"))
    found = [(entry.n, entry.k) for entry in cells.values()]
    assert found == [(n, k) for n, (times, _) in table3.PAPER.items() for k in table3.KS[: len(times)]]
    assert table3.of_paper("memory", 4096, 256) == 13
    assert table3.of_paper("time", 512, 512) is None


def entry_of(name: str) -> Entry:
    return Entry("time", name, 64, 16, 128, "train", "bf16", 32, 4, 64, 0.1)


@pytest.mark.parametrize("name", layers.CONTESTANTS)
@pytest.mark.parametrize(("dtype", "computed"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_each_contestant_gives_gradients_to_its_input_and_parameters(
    name: str, dtype: str, computed: torch.dtype
) -> None:
    if layers.missing(name):
        pytest.skip(f"{name}: {layers.missing(name)}")
    runner = Runner(replace(entry_of(name), dtype=dtype), "cpu")
    types = set()
    for linear in (module for module in runner.layer.modules() if isinstance(module, torch.nn.Linear)):
        linear.register_forward_hook(lambda module, inputs, out: types.add(out.dtype))
    runner.step()
    assert types == {computed}
    assert runner.x.grad is not None and runner.x.grad.shape == runner.x.shape
    assert all(parameter.grad is not None for parameter in runner.layer.parameters())


def test_what_does_not_fit_or_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "status", lambda *_: 1000)
    skipped = layers.cost(entry_of("plain"), "cpu", 1, 60.0)
    assert skipped["skipped"].startswith("needs about") and skipped["contestant"] == "plain"
    assert layers.too_large(entry_of("ours"), "cpu") is None
    monkeypatch.setattr(layers, "find_spec", lambda name: None)
    assert layers.missing("lucidrains") == "not installed: pip install --no-deps linformer==0.2.3"
    assert not any("lucidrains" in name for name in table3.grid(options("--contestants", "lucidrains")))


def test_ratios_are_of_the_same_round() -> None:
    about = {"kind": "time", "tokens": 4096}
    found = {
        ("ours", 512, 128): {**about, "amounts": [1.0, 2.0, 4.0]},
        ("exact", 512, 128): {**about, "amounts": [3.0, 4.0]},
    }
    assert "| 512 | 128 | 2,048 (1,024–4,096) | 1,170 (2.50) | 3 |" in table3.grid_table(found)
