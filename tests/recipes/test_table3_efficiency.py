"""The benchmark of one layer: the real script at tiny sizes, what it leaves out, and what it computes from results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.errors import UsageError
from recipes.reproduce import table3_efficiency
from recipes.reproduce.efficiency import cells, contestants, contract, measure, paper, results
from recipes.reproduce.efficiency.layers import Sizes
from recipes.reproduce.efficiency.results import Conditions, Results

SCRIPT = Path(__file__).resolve().parents[2] / "recipes/reproduce/table3_efficiency.py"
TINY = "--embed-dim 32 --heads 4 --ffn-dim 64 --tokens 128 --threads 1 --device cpu --rounds 2 --dtypes fp32".split()
GRID = "--lengths 32 64 --k 16 --linear-lengths 32 64 --linear-k 16 --modes train".split()
SIZES = Sizes(64, 16, 32, 4, 64)
TRAIN = Conditions("train", "fp32", 0.0)


def script(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--out", str(out), *TINY, *GRID, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of the real script, and what it printed."""
    out = tmp_path_factory.mktemp("table3")
    done = script(out, "--contestants", "ours", "exact", "plain", "fairseq", "bound")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_every_cell_has_its_figures(measured: tuple[Path, str]) -> None:
    found = Results(measured[0])
    rows = list(found.time_rows(TRAIN))
    assert [(n, k, list(entries)) for n, k, entries in rows] == [
        (n, 16, ["ours", "exact", "plain", "fairseq", "bound"]) for n in (32, 64)
    ]
    assert all(len(results.seconds(entry)) == 2 for _, _, entries in rows for entry in entries.values())
    assert [list(entries) for _, entries in found.linear_rows(TRAIN)] == [["32", "64"]]
    if sys.platform == "linux":
        assert found.memory(TRAIN, "plain", 64, 16)["bytes"] > 0


def test_the_report_has_a_row_for_each_length_and_a_column_for_each_contestant(measured: tuple[Path, str]) -> None:
    out, text = measured
    header = "| n | k | ours (least–greatest) | exact | plain | fairseq | bound | rounds |"
    lines = text.splitlines()
    assert [line.split("|")[1].strip() for line in lines[lines.index(header) + 2 :][:2]] == ["32", "64"]
    assert "## Peak memory: forward and backward, fp32, attention dropout 0" in lines
    assert "| speed, fp32, n = 512, ours / fairseq | ≥ 1.20 |  | not measured |" in lines
    assert (out / "report/table.md").read_text().strip() == text.strip()
    assert (out / "report/speed.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "report/results.json").read_text())["settings"]["embed_dim"] == 32


def test_a_cell_is_measured_once_and_again_with_all_its_contestants_for_a_new_one(measured: tuple[Path, str]) -> None:
    out = measured[0]
    before = {path: path.stat().st_mtime_ns for path in out.glob("*-*.json")}
    few = script(out, "--contestants", "ours", "exact")
    assert few.returncode == 0 and {path: path.stat().st_mtime_ns for path in out.glob("*-*.json")} == before
    more = script(out, "--contestants", "products", "--lengths", "64", "--kinds", "time")
    changed = {path.name for path in out.glob("*-*.json") if path.stat().st_mtime_ns != before.get(path)}
    assert more.returncode == 0 and changed == {"time-n64-k16-fp32-train-a0.json"}
    entries = json.loads((out / "time-n64-k16-fp32-train-a0.json").read_text())["entries"]
    assert set(entries) == {"products", "ours", "exact", "plain", "fairseq", "bound"}


def test_figures_of_other_sizes_are_not_mixed(tmp_path: Path) -> None:
    table3_efficiency.same_settings({"ffn_dim": 64, "linformer": None}, tmp_path)
    table3_efficiency.same_settings({"ffn_dim": 64, "linformer": "0.2.3"}, tmp_path)
    with pytest.raises(UsageError, match=r"has figures with another ffn_dim \(64, now 32\)"):
        table3_efficiency.same_settings({"ffn_dim": 32, "linformer": None}, tmp_path)


def test_quick_has_all_cells_that_a_requirement_names(tmp_path: Path) -> None:
    a = table3_efficiency.parser().parse_args(["--quick", "--out", str(tmp_path)])
    names = [cell.name for cell in table3_efficiency.chosen(a, 4096, Sizes(0, 0))]
    assert len(names) == len(set(names))
    for dtype in ("fp32", "bf16"):
        assert f"linear-k256-65536-tokens-{dtype}-train-a0" in names
        assert f"memory-exact-n16384-16384-tokens-{dtype}-train-a0" in names
        assert f"time-n32768-k256-{dtype}-train-a0" in names


@pytest.mark.parametrize("name", contestants.DEFAULT)
def test_each_contestant_gives_gradients_to_its_input_and_parameters(name: str) -> None:
    if contestants.missing(name):
        pytest.skip(f"{name}: {contestants.missing(name)}")
    cell = cells.Cell("time", "bf16", "train", (cells.Entry(name, name, SIZES, 128),))
    runner = measure.Runner(cell.entries[0], cell, "cpu", (torch.randn(128 * 32), torch.randn(128 * 32)))
    runner.step(clear=False)
    assert runner.x.grad is not None and runner.x.grad.shape == runner.x.shape
    # fairseq's shared matrix has a bias that its forward never uses.
    lacking = [key for key, parameter in runner.layer.named_parameters() if parameter.grad is None]
    assert lacking == (["layer.self_attn.compress_k.bias"] if name == "fairseq-shared" else [])


def test_what_does_not_fit_or_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = tuple(cells.Entry(name, name, SIZES, 128) for name in ("ours", "plain", "lucidrains"))
    monkeypatch.setattr(measure, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(contestants, "find_spec", lambda name: None)
    cell = cells.Cell("time", "fp32", "train", entries)
    ours, plain, lucidrains = (measure.refusal(entry, cell, "cpu") for entry in entries)
    assert not ours and plain["skipped"].startswith("needs about")
    assert lucidrains["missing"] == "not installed: pip install --no-deps linformer==0.2.3"


def test_exact_attention_holds_whole_matrices_where_the_fused_kernel_knows_no_dropout() -> None:
    dropped = cells.Entry("exact", "exact", Sizes(64, 16, 32, 4, 64, attention_dropout=0.1), 128)
    assert measure.nxn_bytes(dropped, "train", "cpu") >= 4 * 2 * 64**2 * 12
    assert measure.nxn_bytes(dropped, "train", "cuda") == measure.nxn_bytes(dropped, "forward", "cpu") == 0


def test_the_grid_is_the_papers() -> None:
    planned = [cell[0].sizes for cell in cells.plan(list(paper.TIME), paper.KS, ["ours"], 4096, SIZES)]
    figures = [(n, k) for n, row in paper.TIME.items() for k in paper.KS[: len(row)]]
    assert [(sizes.n, sizes.k) for sizes in planned] == figures
    assert paper.figure(paper.MEMORY, 4096, 256) == 13 and paper.figure(paper.TIME, 512, 512) is None


def test_ratios_are_of_the_same_round_and_requirements_are_compared(tmp_path: Path) -> None:
    def entry(*seconds: float | None) -> dict[str, Any]:
        sizes = {"n": 4096, "k": 256, "attention_dropout": 0.0}
        return {"contestant": "x", "sizes": sizes, "tokens": 4096, "seconds": list(seconds)}

    entries = {"ours": entry(1.0, 2.0, 4.0), "exact": entry(3.0, 4.0, None), "bound": entry(1.0, 1.0, 1.0)}
    about = {"kind": "time", "dtype": "fp32", "mode": "train"}
    (tmp_path / "time-a.json").write_text(json.dumps({**about, "entries": entries}))
    found = Results(tmp_path)
    assert found.ratio(TRAIN, 4096, 256, "exact") == 2.5
    found.settings |= {"tokens": 4096, "device": "2 cores"}
    lines = {line.text: line for line in contract.contract(found, 0.0)}
    assert lines["speed, fp32, n = 4,096, ours / exact"].met
    assert lines["seconds, fp32, n = 4,096, ours / bound"].met is False
    assert lines["speed, bf16, n = 4,096, ours / exact"].met is None
