"""`linformer report`: a browser shows the page, and its figures are those of the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data_prep.binarize import binarize
from data_prep.config import BinarizeConfig
from data_prep.corpus import Document, write_file
from linformer_fairseq.checkpoints.checkpoint import read
from linformer_fairseq.cli import main
from linformer_fairseq.io.records import write_record
from linformer_fairseq.training.metrics import MetricsFile, read_metrics

ATTACK = "<script>document.body.dataset.attacked = 1</script>"
WORDS = "the old city likes a warm river and reads good letter to child in winter garden of teacher book ".split()
Parts = Callable[..., list[dict[str, Any]]]


def metrics_of(folder: Path, scale: float) -> None:
    """Two starts, of which the second repeats an update."""
    folder.mkdir(parents=True)
    for start, updates in ((1, range(1, 6)), (2, range(5, 9))):
        file = MetricsFile(folder, start)
        for update in updates:
            loss = scale * start / update
            line = {"split": "train", "update": update, "loss": loss, "perplexity": 2**loss, "lr": 1e-3 * update}
            line |= {"tokens": 100 * update, "seconds": 36.0 * update, "time": ATTACK, "loss_unit": "bits"}
            file.append({**line, "gradient_norm": loss, "tokens_per_second": 10.0, "memory_bytes": 2**20 * update})
        file.append({"split": "valid", "update": update, "loss": loss, "perplexity": 2**loss, "seconds": 400.0})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path, checkpoint: Path) -> tuple[Path, Path]:
    """A run with all its files, and one that is still training and has none but metrics.jsonl."""
    whole, young = tmp_path_factory.mktemp("runs") / "whole", tmp_path_factory.mktemp("young") / "young"
    metrics_of(whole, 3.0)
    metrics_of(young, 4.0)
    prepared = whole.parent / "prepared"
    for split in ("train", "valid"):
        text = "\n".join(" ".join(WORDS[(i + j) % len(WORDS)] for j in range(12)) for i in range(20))
        write_file([Document("1", "test", "1", text)], prepared / "split" / split / "a.parquet")
    record = binarize(prepared / "split", tokenizer, prepared / "data", BinarizeConfig(), 0)
    manifest = {"config": {"tokenizer": {"model": ATTACK}}, "stages": {"binarize": record, "clean": {"result": {}}}}
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    shutil.copyfile(checkpoint, whole / "checkpoint_best.pt")
    (whole / "run").mkdir()
    settings = {"task": {"data": "prepared/data"}, "optimization": {"lr": [0.001]}}
    (whole / "run/config.yaml").write_text(yaml.safe_dump(settings))
    starts = [
        {"start": 1, "time": "2026-01-01", "host": ATTACK, "updates_before": 0, "folder": str(whole.parent)},
        {"start": 2, "time": "2026-01-02", "host": "b", "updates_before": 4, "folder": str(whole.parent)},
    ]
    starts[1]["settings_changed"] = {"optimization.lr": [[0.1], [0.001]]}
    (whole / "run/environment.json").write_text(json.dumps(starts))
    write_record(whole / "tuned/result.json", {"scores": {"dev": {"accuracy": 87.5}}})
    return whole, young


@pytest.fixture(scope="module")
def page(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("plotly", reason="pages need the extra report: pip install -e '.[report]'")
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", *map(str, runs), "--out", str(path), "--samples", "2"]) == 0
    return path


def test_a_browser_shows_the_page_and_runs_nothing_of_the_data(page: Path, open_page: Callable[[str], Any]) -> None:
    browser = open_page(page.as_uri())
    assert browser.execute_script("return [document.body.dataset.attacked, document.body.dataset.ready]") == [
        None,
        "yes",
    ]
    titles = browser.execute_script("return [...document.querySelectorAll('h2')].map(e => e.textContent)")
    assert titles == [
        *("Runs", "Curves", "Starts", "Configuration", "Data of whole", "Data of young"),
        *("Model of whole", "Model of young", "Fine-tuning"),
    ]
    box = "document.querySelector('.js-plotly-plot')"
    switch = "const s = document.querySelector('select'); s.value = 2; s.dispatchEvent(new Event('change'));"
    assert browser.execute_script(f"{switch} return {box}.data[0].x.slice(0, 2)") == [0.01, 0.02]  # hours


def test_curves_are_those_of_the_metrics(page: Path, runs: tuple[Path, Path], parts_of: Parts) -> None:
    plots = {part["title"]: part["views"] for part in parts_of(page, "plot") if part["section"] == "Curves"}
    keys = ("loss", "perplexity", "lr", "gradient_norm", "tokens_per_second", "memory_bytes")
    assert len(plots) == len(keys)
    for key, views in zip(keys, plots.values(), strict=True):
        assert [view["name"] for view in views] == ["updates", "tokens", "hours"]
        traces = {trace["name"]: trace for trace in views[0]["traces"]}
        for run in runs:
            for split in ("train", "valid") if key in keys[:2] else ("train",):
                lines = [line for line in read_metrics(run) if line["split"] == split]
                assert traces[f"{run.name} {split}"]["y"] == [line[key] for line in lines]
                assert traces[f"{run.name} {split}"]["x"] == [line["update"] for line in lines]
    overview = next(part for part in parts_of(page, "table") if part["section"] == "Runs")
    assert overview["rows"][0][:5] == ["whole", 8, None, 400 / 3600, 3.0 * 2 / 8]


def test_starts_settings_data_and_scores_are_those_of_the_files(page: Path, parts_of: Parts) -> None:
    tables = {part["section"]: part["rows"] for part in reversed(parts_of(page, "table"))}
    assert tables["Starts"][0][:6] == ["whole", 1, "2026-01-01", ATTACK, None, 0]
    assert tables["Starts"][1][5:] == [
        4,
        "optimization.lr: [0.1] → [0.001]",
        "no reason in its logs: it goes on, or was killed",
    ]
    assert ["optimization.lr", "[0.001]", None] in tables["Configuration"]
    assert [row[:3] for row in tables["Data of whole"]] == [["clean", "kept", None], ["binarize", "kept", 2]]
    assert tables["Fine-tuning"][0][2:] == ["dev", "accuracy", 87.5]


def test_the_model_is_that_of_the_checkpoint(page: Path, checkpoint: Path, parts_of: Parts) -> None:
    samples = parts_of(page, "texts")
    assert len(samples) == 2
    for sample in samples:
        text, own = ([tuple(run) for run in pane["runs"]] for pane in sample["panes"])
        masked = sum(marked for _, marked in text)
        wrong = sum(marked for _, marked in own)
        assert masked and sample["mark"] == f"{masked - wrong} of {masked} right"
        assert [one for one, marked in text if not marked] == [
            mine for (_, marked), (mine, _) in zip(text, own, strict=True) if not marked
        ]
        assert {*"".join(one for one, _ in text).split()} & {*WORDS}
    plots = {part["title"].split(",")[0]: part for part in parts_of(page, "plot") if part["section"] != "Curves"}
    state = read(checkpoint).state
    (name,) = (key for key in state if key.endswith("E.weight"))
    matrix = state[name] * state[name.replace("weight", "lr_scale")]
    (picture,) = plots["Projections"]["views"]
    torch.testing.assert_close(torch.tensor(picture["traces"][0]["z"]), matrix, rtol=6e-3, atol=1e-6)
    weights = torch.tensor([view["traces"][0]["z"] for view in plots["Attention"]["views"]])
    assert weights.shape[1:] == (32, 16) and picture["name"] == "all layers, E"
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]), rtol=0, atol=1e-2)


def test_what_a_young_run_lacks_is_said(page: Path, runs: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    text = page.read_text(encoding="utf-8")
    assert "Without run/environment.json: young." in text
    assert "No checkpoint_best.pt or checkpoint_last.pt yet" in text and "No run/config.yaml names the data" in text
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "no.html")]) == 1
    assert "neither metrics.jsonl" in capsys.readouterr().err and not (tmp_path / "no.html").exists()
