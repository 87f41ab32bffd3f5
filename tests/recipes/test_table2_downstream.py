"""Table 2 at small scale: one short run of it, and a report of what is finished."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from linformer_fairseq.errors import UsageError
from recipes.reproduce import table2_downstream

WORDS = "the a river garden child teacher book city winter letter good bad warm cold likes sees reads".split()
LINFORMER, SCRATCH = "tiny Linformer", "Linformer, not pretrained"


@pytest.fixture
def data(tokenizer: Path, tmp_path: Path, run_fairseq: Callable[..., Any]) -> Path:
    """Binarised text with its tokenizer, as `data_prep run` leaves it."""
    chance = random.Random(0)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer / "sentencepiece.model"))
    for split, lines in (("train", 200), ("valid", 20)):
        pieces = (model.encode(" ".join(chance.choices(WORDS, k=40)), out_type=str) for _ in range(lines))
        (tmp_path / split).write_text("".join(" ".join(line) + "\n" for line in pieces))
    run_fairseq(
        *("fairseq-preprocess", "--only-source", "--srcdict", tokenizer / "dict.txt", "--destdir", tmp_path / "data"),
        *("--trainpref", tmp_path / "train", "--validpref", tmp_path / "valid", "--workers", 1),
    )
    shutil.copy(tokenizer / "sentencepiece.model", tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.slow
def test_pretrained_and_untrained_are_in_one_table(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glue/QNLI").mkdir(parents=True)
    lines = [f"{i}\t{WORDS[i % 10]}\tgood {i}\t{('not_', '')[i % 2]}entailment\n" for i in range(60)]
    (tmp_path / "glue/QNLI/dev.tsv").write_text("index\tquestion\tsentence\tlabel\n" + "".join(lines))
    words = [str(data), "--glue-dir", str(tmp_path / "glue"), "--imdb-dir", str(tmp_path), "--quick"]
    words += ["--tasks", table2_downstream.QNLI, "--models", LINFORMER, SCRATCH]
    words += ["--out", str(tmp_path / "out"), "--report", str(tmp_path / "report/results.md")]
    assert table2_downstream.MEASUREMENT.main(words) == 0
    text = (tmp_path / "report/results.md").read_text()
    assert (
        f"| majority-class baseline | TF-IDF + logistic regression | {LINFORMER} | {SCRATCH} | RoBERTa-base (paper)"
        in text
    )
    assert text.count("(one seed)") == 2
    cells = json.loads((tmp_path / "report/results.json").read_text())["cells"]
    linformer, exact = (cells[f"pretraining, {name}"] for name in ("linformer", "exact"))
    assert (linformer["attention"], exact["attention"]) == ("linformer", "exact")
    assert linformer["tokens"] == 2 * 4096 and exact["perplexity"] > 1
    assert (tmp_path / "report/results.csv").exists() and (tmp_path / "report/results.png").exists()

    monkeypatch.setattr("linformer_fairseq.measuring.trainings.run_logged", None)  # a second time nothing is run
    monkeypatch.setattr("linformer_fairseq.finetuning.train.run_logged", None)
    assert table2_downstream.MEASUREMENT.main(words) == 0
    assert (tmp_path / "report/results.md").read_text() == text


def test_a_report_is_of_what_is_finished() -> None:
    with pytest.raises(UsageError, match="no fine-tuning is finished yet"):
        table2_downstream.markdown({"cells": {}})
    row = {"task": "RTE", "setting": "lr 1", "rows": {"train": 9, "dev": 4}}
    row |= {"scores": {"accuracy": [50.0]}, "constant": {"accuracy": 50.0}}
    assert "| RTE | 9 | 4 |" in table2_downstream.markdown({"cells": {f"{SCRATCH}, RTE": [row]}})
