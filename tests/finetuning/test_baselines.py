"""The linear model of TF-IDF features."""

from __future__ import annotations

from pathlib import Path

import pytest

from linformer_fairseq.finetuning.baselines import baseline_shard, linear
from linformer_fairseq.finetuning.train import Run
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.tables import Table


def a_run(texts: list[tuple[str, ...]], labels: list[str], classes: tuple[str, ...], metrics: tuple[str, ...]) -> Run:
    tables = {name: Table(Path(name), texts, labels) for name in ("train", "dev", "test")}
    return Run("task", Path("out"), Path("c.pt"), None, tables, {}, Labels(classes, len(texts[0])), metrics)


def test_pairs_of_words_and_the_column_count() -> None:
    pairs = ["not bad, but good", "not good, but bad", "bad, not good", "good, not bad"]
    run = a_run([(text,) for text in pairs], ["warm", "cold", "cold", "warm"], ("cold", "warm"), ("accuracy", "f1"))
    assert linear(run).result == {name: {"accuracy": 100, "f1": 100} for name in ("dev", "test")}
    sides = [("red", "blue"), ("blue", "red")] * 4
    assert linear(a_run(sides, ["0", "1"] * 4, ("0", "1"), ("accuracy",))).result["dev"] == {"accuracy": 100}


def test_scores_are_regressed_and_texts_without_words_read_by_letters() -> None:
    run = a_run([("x",), ("x x",), ("?",)] * 3, ["5.0", "4.5", "1.0"] * 3, (), ("pearson",))
    assert linear(run).result["dev"]["pearson"] > 90


def test_one_class_is_always_predicted() -> None:
    assert linear(a_run([("a book",)] * 3, ["0"] * 3, ("0", "1"), ("accuracy",))).result["dev"] == {"accuracy": 100}


@pytest.mark.parametrize("change", ["texts", "labels", "metrics"])
def test_other_rows_are_other_work(change: str) -> None:
    run = a_run([("a",), ("b",)], ["0", "1"], ("0", "1"), ("accuracy",))
    texts, labels = [("a",), ("c" if change == "texts" else "b",)], ["0", "0" if change == "labels" else "1"]
    other = a_run(texts, labels, ("0", "1"), ("f1",) if change == "metrics" else ("accuracy",))
    assert baseline_shard(run).name == baseline_shard(run).name != baseline_shard(other).name
