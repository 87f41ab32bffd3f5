"""The measurement of retrieval, with the training replaced by its result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.measure import retrieval


def test_each_data_set_has_a_row_for_bm25_and_for_the_model_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def finetune(words: list[str]) -> int:
        started.append(words)
        out = Path(words[words.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        found = {key: {"test": {"ndcg@10": value}} for key, value in (("scores", 3.5), ("constant", 2), ("linear", 9))}
        (out / "result.json").write_text(json.dumps(found))
        return 0

    monkeypatch.setattr(retrieval, "main", finetune)
    words = ["model.pt", "data/a", "data/b", "--out", str(tmp_path / "run"), "--flags", "--epochs 2"]
    assert retrieval.MEASUREMENT.main(words) == 0
    table = (tmp_path / "run/table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| a")]
    assert (
        rows == ["| a, BM25 | 9 |", "| a, before training | 2 |", "| a, trained | 3.5 |"] and "| b, trained |" in table
    )
    assert started[0][:3] == ["pairs", "--checkpoint", "model.pt"] and started[0][-2:] == ["--epochs", "2"]
    assert started[0][started[0].index("--test") + 1] == "data/a/test.tsv"
