"""Many runs and their table; the linear model of TF-IDF features beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import grid
from linformer_fairseq.finetuning.grid import baseline_shard, best, linear, run_grid
from linformer_fairseq.finetuning.train import RESULT, Result, Run
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.io.files import write_json
from linformer_fairseq.tables import Table


def a_run(task: str, lr: float, seed: int, out: Path = Path("out"), checkpoint: str = "one") -> Run:
    labels, digests = Labels(("0", "1"), 1), {"checkpoint": checkpoint}
    folder = out / f"{task}/lr{lr:g}-seed{seed}"
    tables = {name: Table(Path(name), [("a b c",), ("d e f",)] * 4, ["0", "1"] * 4) for name in ("train", "dev")}
    return Run(task, folder, Path("c.pt"), None, tables, digests, labels, ("accuracy",), seed, lr)


def result(value: float, run: Run | None = None) -> Result:
    return {
        "settings": run.settings() if run else {},
        "scores": {"dev": {"accuracy": value}},
        "constant": {"dev": {"accuracy": 50.0}},
        "rows": {"train": 9, "dev": 4},
        "longer": {"train": 2, "dev": 0},
    }


def test_the_setting_with_the_best_median_is_chosen_and_of_its_runs_the_median() -> None:
    runs = [a_run("RTE", lr, seed) for lr in (1, 2) for seed in (1, 2, 3, 4)]
    found = [result(value) for value in (60, 61, 99, 62, 70, 80, 66, 90)]
    row, chosen = best([*zip(runs, found, strict=True), (a_run("WNLI", 1, 1), result(5))])["RTE"]
    assert row.setting == "lr 2, batch 32, epochs 3" and row.constant == {"accuracy": 50.0}
    assert row.scores == {"accuracy": [70, 80, 66, 90]}
    assert (chosen.lr, chosen.seed) == (2, 1)  # 70, the lower one of the two in the middle


def test_each_run_is_done_once_unless_its_folder_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []

    def fake(run: Run) -> Result:
        done.append(run.seed)
        write_json(run.out / RESULT, result(run.seed, run))
        return result(run.seed, run)

    monkeypatch.setattr(grid, "finetune", fake)
    runs = [a_run("RTE", 1, seed, tmp_path) for seed in (1, 2)]
    for _ in range(2):
        row, _ = run_grid(runs, tmp_path)["RTE"]
        assert (row.scores, row.linear) == ({"accuracy": [1, 2]}, {"accuracy": 100})
        monkeypatch.setattr(grid, "linear", fake)  # it is computed once
    assert done == [1, 2]
    assert "RTE train: 2 rows are longer than the model reads (their head was read)" in capsys.readouterr().out
    (runs[1].out / RESULT).unlink()
    run_grid([*runs, a_run("RTE", 1, 3, tmp_path)], tmp_path)
    assert done == [1, 2, 2, 3]
    other = replace(a_run("RTE", 2, 1, checkpoint="another"), out=runs[0].out)
    with pytest.raises(UsageError, match=r"seed1 holds the result of other settings \(checkpoint, lr changed\)"):
        run_grid([other], tmp_path)


def run_on(texts: list[tuple[str, ...]], labels: list[str], classes: tuple[str, ...], metrics: tuple[str, ...]) -> Run:
    tables = {name: Table(Path(name), texts, labels) for name in ("train", "dev", "test")}
    return Run("task", Path("out"), Path("c.pt"), None, tables, {}, Labels(classes, len(texts[0])), metrics)


def test_pairs_of_words_and_the_column_count() -> None:
    pairs = ["not bad, but good", "not good, but bad", "bad, not good", "good, not bad"]
    run = run_on([(text,) for text in pairs], ["warm", "cold", "cold", "warm"], ("cold", "warm"), ("accuracy", "f1"))
    assert linear(run).result == {name: {"accuracy": 100, "f1": 100} for name in ("dev", "test")}
    sides = [("red", "blue"), ("blue", "red")] * 4
    assert linear(run_on(sides, ["0", "1"] * 4, ("0", "1"), ("accuracy",))).result["dev"] == {"accuracy": 100}


def test_scores_are_regressed_and_texts_without_words_read_by_letters() -> None:
    run = run_on([("x",), ("x x",), ("?",)] * 3, ["5.0", "4.5", "1.0"] * 3, (), ("pearson",))
    assert linear(run).result["dev"]["pearson"] > 90


def test_one_class_is_always_predicted() -> None:
    assert linear(run_on([("a book",)] * 3, ["0"] * 3, ("0", "1"), ("accuracy",))).result["dev"] == {"accuracy": 100}


@pytest.mark.parametrize("change", ["texts", "labels", "metrics"])
def test_other_rows_are_other_work(change: str) -> None:
    run = run_on([("a",), ("b",)], ["0", "1"], ("0", "1"), ("accuracy",))
    texts, labels = [("a",), ("c" if change == "texts" else "b",)], ["0", "0" if change == "labels" else "1"]
    other = run_on(texts, labels, ("0", "1"), ("f1",) if change == "metrics" else ("accuracy",))
    assert baseline_shard(run).name == baseline_shard(run).name != baseline_shard(other).name
