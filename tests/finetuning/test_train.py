"""One fine-tuning through the real fairseq-train, from tables to a scored checkpoint."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score

from linformer_fairseq.checkpoints.checkpoint import read
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import train
from linformer_fairseq.finetuning.train import MODEL, Run, digests_of, finetune
from linformer_fairseq.inference.predict import Labels, predict
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


@pytest.mark.slow
def test_a_table_is_learnt_scored_in_full_and_not_trained_twice(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    labels = Labels(("cold", "warm"), 1)
    tables = {"train": table("train.tsv", 320, 1), "dev": table("dev.tsv", 61, 2), "test": table("test.tsv", 30, 3)}
    digests = digests_of(read(checkpoint), None, tables)
    run = Run("task", tmp_path, checkpoint, None, tables, digests, labels, ("accuracy", "f1"), 1, 2e-3, 16, 8)
    result = finetune(run)
    assert result["rows"] == {"train": 320, "dev": 61, "test": 30}
    tuned = read(tmp_path / MODEL)
    for name, rows in tables.items():
        if name == "train":
            continue
        predicted = predict(tuned, tokenizer_of(tuned, None), rows.texts)
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
    assert finetune(run) == result
    (tmp_path / MODEL).write_text("damaged")
    assert finetune(run)["scores"] == result["scores"] and read(tmp_path / MODEL).scores == tuned.scores
    tables["train"].texts[0] = ("another text",)
    other = digests_of(read(checkpoint), None, tables)
    with pytest.raises(UsageError, match=r"holds the result of other settings \(seed, train changed\)"):
        finetune(replace(run, digests=other, seed=2))


def test_digests_tell_checkpoints_tokenizers_and_tables_apart(
    checkpoint: Path, tokenizer: Path, tmp_path: Path
) -> None:
    source, tables = read(checkpoint), {"train": table("a.tsv", 3, 1), "dev": table("b.tsv", 3, 1)}
    before = digests_of(source, None, tables)
    assert before == digests_of(source, tokenizer, tables) and before["train"] == before["dev"]
    (tmp_path / "dict.txt").write_text("another 1\n")
    tables["dev"].labels = ["cold"] * 3
    source.state = {name: value + 1 for name, value in source.state.items()}
    after = digests_of(source, tmp_path, tables)
    assert [name for name in before if after[name] != before[name]] == ["checkpoint", "data", "dev"]


@pytest.mark.parametrize(("capability", "flag"), [((7, 0), "--fp16"), ((9, 0), "--bf16"), (None, None)])
def test_a_gpu_trains_in_16_bit(
    capability: tuple[int, int] | None, flag: str | None, checkpoint: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """In the type that it has; a CPU in 32 bit."""
    started: list[Sequence[str]] = []
    monkeypatch.setattr(train, "run_logged", lambda argv, *_: started.append(argv))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    run = Run("task", tmp_path, checkpoint, None, {}, {}, Labels(("cold", "warm"), 1), ("accuracy",), 1, 2e-3, 16, 8)
    train.run_training(run, read(checkpoint), train.RECIPE, 320, {})
    assert [word for word in started[0] if word in ("--fp16", "--bf16")] == ([flag] if flag else [])


@pytest.mark.parametrize(("gpus", "share"), [(1, "16"), (3, "6")])
def test_the_batch_is_that_of_all_gpus_together(
    gpus: int, share: str, checkpoint: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    started: list[Sequence[str]] = []
    monkeypatch.setattr(train, "run_logged", lambda argv, *_: started.append(argv))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    run = Run("task", tmp_path, checkpoint, None, {}, {}, Labels(("cold", "warm"), 1), ("accuracy",), 1, 2e-3, 16, 8)
    train.run_training(run, read(checkpoint), train.RECIPE, 320, {})
    assert started[0][started[0].index("--batch-size") + 1] == share
    assert started[0][started[0].index("--max-update") + 1] == "160"
