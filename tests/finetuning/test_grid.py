"""Sharing a grid among processes, and choosing from it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.grid import Job, best, do_on_processes, parse_part, results
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.tables import Table
from linformer_fairseq.finetuning.train import Result, Run


def job(task: str, setting: str, seed: int, out: Path = Path("out")) -> Job:
    rows = Table(Path("a.tsv"), [("a",)], ["0"])
    return Job(
        task, setting, Run(Path("c.pt"), Labels(("0", "1"), 1), ("accuracy",), seed), rows, {"dev": rows}, None, out
    )


def result(value: float) -> Result:
    return {
        "scores": {"dev": {"accuracy": value}},
        "constant": {"dev": {"accuracy": 50.0}},
        "rows": {"train": 9, "dev": 4},
    }


def test_the_setting_with_the_best_median_is_chosen_and_of_its_runs_the_median() -> None:
    jobs = [job("RTE", setting, seed) for setting in ("lr 1", "lr 2") for seed in (1, 2, 3, 4)]
    found = [result(value) for value in (60, 61, 99, 62, 70, 80, 66, 90)]
    row, chosen = best([*jobs, job("WNLI", "lr 1", 1)], [*found, result(5)])["RTE"]
    assert (row.setting, row.scores, row.constant) == ("lr 2", {"accuracy": [70, 80, 66, 90]}, {"accuracy": 50.0})
    assert (chosen.setting, chosen.run.seed) == ("lr 2", 1)  # 70, the lower one of the two in the middle


def test_parts_are_checked() -> None:
    assert parse_part("3/8") == (3, 8)
    for wrong in ("0/8", "9/8", "3", "a/b", "-1/2"):
        with pytest.raises(UsageError, match="must be I/N with I from 1 to N"):
            parse_part(wrong)


def test_a_grid_is_finished_when_all_its_runs_are(tmp_path: Path) -> None:
    assert results([job("RTE", "lr 1", 1, tmp_path)]) is None


def test_a_part_that_fails_ends_the_others_and_shows_its_last_words(tmp_path: Path) -> None:
    code = "import sys, time; sys.exit('disk on fire') if sys.argv[2] == '2/2' else time.sleep(600)"
    with pytest.raises(UsageError, match="(?s)part-2.log.*disk on fire"):
        do_on_processes([sys.executable, "-c", code], [job("RTE", "lr 1", 1, tmp_path)], 2, tmp_path)
