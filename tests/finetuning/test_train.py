"""One fine-tuning through the real fairseq-train, from tables to a scored checkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score

from linformer_fairseq.checkpoints.checkpoint import read
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.train import MODEL, Run, finetune, targets
from linformer_fairseq.inference.predict import Labels, Predictor
from linformer_fairseq.inference.sequences import tokenizer_of
from linformer_fairseq.plugin import register
from linformer_fairseq.tables import Table


def table(name: str, rows: int, seed: int) -> Table:
    """Whether a sentence has the word `good`, which two layers learn at once."""
    chance = random.Random(seed)
    found = Table(Path(name), [], [])
    assert found.labels is not None
    for _ in range(rows):
        words = chance.choices("the river garden child teacher book city winter".split(), k=6)
        label = chance.choice(("cold", "warm"))
        words[chance.randrange(6)] = "good" if label == "warm" else "bad"
        found.texts.append((" ".join(words),))
        found.labels.append(label)
    return found


def test_a_table_is_learnt_scored_in_full_and_not_trained_twice(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    labels = Labels(("cold", "warm"), 1)
    run = Run(checkpoint, labels, ("accuracy", "f1"), lr=2e-3, batch_size=16, epochs=8)
    train, dev = table("train.tsv", 320, 1), table("dev.tsv", 61, 2)
    sets = {"dev": dev, "test": table("test.tsv", 30, 3)}
    result = finetune(run, train, sets, None, tmp_path)
    assert result["rows"] == {"train": 320, "dev": 61, "test": 30}
    tuned = read(tmp_path / MODEL)
    for name, rows in sets.items():
        predicted = Predictor(tuned, tokenizer_of(tuned, None)).predict(rows.texts)
        assert rows.labels is not None and len(predicted) == len(rows)
        accuracy = 100 * accuracy_score(rows.labels, predicted)
        assert result["scores"][name]["accuracy"] == pytest.approx(accuracy) and accuracy > 90
        lines = [line.split("\t") for line in (tmp_path / f"{name}.tsv").read_text().splitlines()]
        assert lines == [["label", "prediction"], *map(list, zip(rows.labels, predicted, strict=True))]
        most = max(rows.labels.count(label) for label in ("cold", "warm"))
        assert result["constant"][name]["accuracy"] in (
            pytest.approx(100 * most / len(rows)),
            pytest.approx(100 - 100 * most / len(rows)),
        )
    monkeypatch.setattr("linformer_fairseq.finetuning.train.run_logged", None)  # a second time nothing is run
    assert finetune(run, train, sets, None, tmp_path) == result
    with pytest.raises(UsageError, match="holds the result of other settings"):
        finetune(Run(checkpoint, labels, ("accuracy",), seed=2), train, sets, None, tmp_path)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["cold", "hot"], ("cold", "warm"), "row 2 has the label 'hot', which is none of cold, warm"),
        (["1.5", "much"], (), "a score is not a number.*much"),
        (None, ("cold", "warm"), "dev.tsv: has no labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[str] | None, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        targets(Table(Path("dev.tsv"), [("a",), ("b",)], labels), Labels(classes, 1))
