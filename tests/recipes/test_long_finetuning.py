"""The measurement of fine-tuning on long texts, with a small random BERT and made-up texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from linformer_fairseq.checkpoints.checkpoint import encoder_config, read
from recipes.measure import long_finetuning
from recipes.measure.long_finetuning import EXACT, HEAD

CONVERTED = "converted, k = 128, W = 64"
WORDS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bad", "good", "the", "city"]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A BERT that reads 16 tokens, and tables whose class shows only beyond them; and what measures it."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **sizes)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert/vocab.txt").write_text("\n".join(WORDS) + "\n")
    for name in ("train", "test"):
        lines = [
            "label\tsentence",
            "1\tgood",
            *(f"{i % 2}\t{'the city ' * 12}{f'{WORDS[6 + i % 2]} ' * (1 + i // 2)}" for i in range(30)),
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    files = [str(tmp_path / "bert"), "--train", str(tmp_path / "train.tsv"), "--test", str(tmp_path / "test.tsv")]
    return [*files, "--out", str(tmp_path / "run"), "--words", "20", "--max-positions", "256"]


def test_each_contestant_reads_its_tokens_of_the_long_texts(words: list[str], tmp_path: Path) -> None:
    some = ["--contestants", HEAD, CONVERTED, EXACT, "--epochs", "1", "--seeds", "1", "--rows", "24", "--lr", "1e-3"]
    assert long_finetuning.MEASUREMENT.main([*words, *some, "--parallel", "2"]) == 0
    cells = json.loads((tmp_path / "run/results.json").read_text())["cells"]
    assert {name: len(found["scores"]) for name, found in cells.items()} == {HEAD: 1, CONVERTED: 1, EXACT: 1}
    assert all(found["rows"]["train"] + found["rows"]["dev"] == 24 for found in cells.values())
    assert all(found["rows"]["test"] == 24 and found["TF-IDF + logistic regression"] > 90 for found in cells.values())
    # What reads 16 tokens sees the same in all texts, and gives one answer: that of the majority, or the other.
    majority = cells[HEAD]["majority-class baseline"]
    assert cells[HEAD]["scores"][0] in (pytest.approx(majority), pytest.approx(100 - majority))
    models = {
        name: encoder_config(read(long_finetuning.folder_of(tmp_path / "run", name) / "model.pt")) for name in cells
    }
    assert {name: config.max_positions for name, config in models.items()} == {HEAD: 16, CONVERTED: 256, EXACT: 256}
    assert {name: config.attention for name, config in models.items()} == {
        HEAD: "exact",
        CONVERTED: "linformer",
        EXACT: "exact",
    }
    assert models[CONVERTED].local_window == 64
    table = (tmp_path / "run/table.md").read_text()
    assert f"| {HEAD} | " in table and f"| {EXACT} | " in table and " texts of more than 20 words" in table


def test_texts_that_are_all_short_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert long_finetuning.MEASUREMENT.main([*words, "--words", "900"]) == 1
    assert "train.tsv: must have texts of more than 900 words in two classes; lower --words" in capsys.readouterr().err
