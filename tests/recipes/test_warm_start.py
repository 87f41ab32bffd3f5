"""The measurement of warm starts: its figures, its report, and one short run of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from linformer_fairseq.errors import UsageError
from recipes.reproduce import warm_start
from recipes.reproduce.warm_start_report import Result, table, updates_until, write_report

STUDY = {"original": {"ppl": 50.0, "updates": 1000}, "projected_length": "128", "sharing": "layerwise"}
WARM = Result(80.0, [(20, 60.0), (40, 51.0), (60, 49.0)], 60, 3.2, 200, [0.5, 0.1])
COLD = Result(None, [(500, 90.0), (1000, 52.0)], 1000, 0.1, 0, [])


def test_the_first_validation_that_is_near_enough_counts() -> None:
    assert updates_until(WARM, 51.0) == 40
    assert updates_until(WARM, 80.0) == 0
    assert updates_until(COLD, 51.0) is None
    assert updates_until(COLD, 90.0) == 500


def test_the_table_has_a_row_for_each_way() -> None:
    lines = table(STUDY, {"SVD": WARM, "from scratch": COLD}).splitlines()
    assert lines[0].startswith("The RoBERTa: perplexity 50.0 after 1,000 updates. k = 128")
    assert lines[-2:] == [
        "| SVD | 3 | 80.0 | 40 | 4.0% | 49.0 | 60 |",
        "| from scratch |  |  | not reached |  | 52.0 | 1,000 |",
    ]


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    text = write_report(STUDY, {"SVD": WARM, "from scratch": COLD}, tmp_path / "report")
    record = json.loads((tmp_path / "report/results.json").read_text())
    assert record["results"]["SVD"]["updates_until_near"] == 40 and record["torch"]
    assert (tmp_path / "report/curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report/table.md").read_text() == text + "\n"


def test_runs_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"roberta": "a", "projected_length": "8", "sharing": "none", "updates": 9, "lr": 0.1}
    settings |= {"scratch_updates": 9, "validations": 3, "scratch_lr": 0.1, "transfer_steps": 1, "sample": 1}
    warm_start.same_settings(warm_start.Study(**settings), tmp_path)
    warm_start.same_settings(warm_start.Study(**settings), tmp_path)
    with pytest.raises(UsageError, match="has runs with another --lr"):
        warm_start.same_settings(warm_start.Study(**settings | {"lr": 0.2}), tmp_path)


def test_each_way_has_a_folder_of_its_own() -> None:
    assert warm_start.folder_name("SVD, transfer") == "svd-transfer"
    assert len({warm_start.folder_name(way) for way in warm_start.WAYS}) == len(warm_start.WAYS)


def test_a_run_not_begun_has_no_points(tmp_path: Path) -> None:
    assert warm_start.read_curve(tmp_path / "train.log") == []


@pytest.mark.slow
def test_a_roberta_of_fairseq_is_measured_once_and_in_pieces(
    tiny_data: Path,
    tmp_path: Path,
    run_fairseq: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = ("--encoder-layers", 1, "--encoder-embed-dim", 16, "--encoder-ffn-embed-dim", 16)
    run_fairseq(
        *("fairseq-train", tiny_data, "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "roberta", *sizes),
        *("--encoder-attention-heads", 2, "--max-positions", 64, "--tokens-per-sample", 64, "--optimizer", "adam"),
        *("--lr", 1e-3, "--max-update", 3, "--batch-size", 8, "--save-dir", tmp_path / "roberta", "--cpu"),
    )
    checkpoint = tmp_path / "roberta/checkpoint_last.pt"
    arguments = [str(tiny_data), "--roberta", str(checkpoint), "--out", str(tmp_path / "run"), "--updates", "2"]
    arguments += ["--projected-length", "16", "--transfer-steps", "3", "--sample", "16", "--validations", "2"]
    warm_start.main([*arguments, "--ways", "SVD, transfer"])
    first = capsys.readouterr().out
    assert "| SVD, transfer |" in first and "| from scratch |" not in first
    warm_start.main([*arguments, "--ways", "from scratch"])
    results = json.loads((tmp_path / "run/report/results.json").read_text())
    assert results["study"]["original"]["updates"] == 3
    warm, cold = results["results"]["SVD, transfer"], results["results"]["from scratch"]
    assert [update for update, _ in warm["curve"]] == [1, 2] and warm["start"] > 1 and len(warm["errors"]) == 2
    assert cold["curve"][-1][0] == 3 and cold["start"] is None

    monkeypatch.setattr(warm_start, "run_logged", None)  # a second time nothing is run
    monkeypatch.setattr(warm_start, "convert", None)
    capsys.readouterr()
    warm_start.main([*arguments, "--ways", "SVD, transfer", "from scratch"])
    assert "| SVD, transfer |" in capsys.readouterr().out
