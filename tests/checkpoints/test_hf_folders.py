"""Exported folders in other people's hands: one model file, names of classes, pooling, new symbols, the way back."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from linformer_fairseq import cli
from linformer_fairseq.checkpoints.checkpoint import FINE_TUNED, read
from linformer_fairseq.checkpoints.folders import as_file, read_any
from linformer_fairseq.checkpoints.hf_code import MODEL, write_code
from linformer_fairseq.checkpoints.huggingface import from_hf, to_hf
from linformer_fairseq.inference.engine import Engine
from linformer_fairseq.inference.predict import labels_of
from linformer_fairseq.inference.sequences import dictionary_digest, encode, tokenizer_of

TRUST: dict[str, Any] = {"trust_remote_code": True}
TEXTS = ["the river reads a book", "a good winter letter in the warm city"]


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of a tiny model with the head `sentence_classification_head`, fine-tuned for three classes."""
    made = read(checkpoint)
    torch.manual_seed(1)
    width = made.state["encoder.sentence_encoder.embed_tokens.weight"].size(1)
    shapes = {
        "dense.weight": (width, width),
        "dense.bias": (width,),
        "out_proj.weight": (3, width),
        "out_proj.bias": (3,),
    }
    head = "classification_heads.sentence_classification_head."
    made.state |= {head + name: torch.randn(shape) for name, shape in shapes.items()}
    tuned = {"classes": ["law", "art", "sport"], "columns": 1, "keep": "head"}
    made.notes.append({"conversion": FINE_TUNED, **tuned, "dictionary": dictionary_digest(made.data)})
    out = tmp_path_factory.mktemp("exported") / "hf"
    to_hf(made, made.data, out)
    return out


def test_all_code_is_in_one_file_without_two_things_of_one_name(tmp_path: Path) -> None:
    write_code(tmp_path)
    for path in tmp_path.iterdir():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        relative = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        assert relative == (["configuration_linformer"] if path.name == MODEL else [])
        named = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        targets = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
        named += [target.id for target in targets if isinstance(target, ast.Name)]
        assert [name for name, count in Counter(named).items() if count > 1] == []


def test_classes_of_the_fine_tuning_become_names(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "law", "1": "art", "2": "sport"}
    assert "| classes | law, art, sport |" in (folder / "README.md").read_text()
    assert labels_of(from_hf(folder)).classes == ("law", "art", "sport")


def test_classes_learnt_in_transformers_come_back(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    changed = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config | changed))
    assert labels_of(from_hf(tmp_path), 2).classes == ("a", "b", "c")


def test_a_head_that_fairseq_has_not_is_left_out_on_the_way_back(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=3, **TRUST)
    model.save_pretrained(tmp_path)
    back = read_any(tmp_path)
    assert back.notes[-2]["left out"] == ["classifier.bias", "classifier.weight"] and back.heads == []


@pytest.mark.parametrize("new", [[], ["riverbank", "[E1]"]])
def test_symbols_that_were_added_have_a_way_back(folder: Path, tmp_path: Path, new: list[str]) -> None:
    """Also what transformers has saved again without dict.txt."""
    tokenizer = AutoTokenizer.from_pretrained(folder, **TRUST)
    model = AutoModelForMaskedLM.from_pretrained(folder, **TRUST).eval()
    tokenizer.add_tokens(new)
    model.resize_token_embeddings(len(tokenizer))
    text = "the riverbank <mask> a book [E1] ."
    batch = tokenizer([text], return_tensors="pt")
    expected = model(**batch).logits
    model.save_pretrained(tmp_path / "grown")
    tokenizer.save_pretrained(tmp_path / "grown")
    back, again = tmp_path / "back.pt", tmp_path / "again"
    assert cli.main(["convert", "from-hf", str(tmp_path / "grown"), str(back)]) == 0
    plain = text.replace("<mask> ", "")
    ids = encode([(plain,)], tokenizer_of(read(back), None), 64).ids[0]
    assert len(ids) == len(tokenizer(plain)["input_ids"]) and max(ids) < len(tokenizer) - 1  # <mask> is the last here
    assert cli.main(["convert", "to-hf", str(back), str(again)]) == 0
    tokenizer = AutoTokenizer.from_pretrained(again, **TRUST)
    found = AutoModelForMaskedLM.from_pretrained(again, **TRUST).eval()(**tokenizer([text], return_tensors="pt"))
    torch.testing.assert_close(found.logits, expected)


def vectors(path: Path) -> Any:
    made = read(as_file(path))
    rows = encode([(text,) for text in TEXTS], tokenizer_of(made, None), 64)
    return Engine(made, "mean").run(rows.ids)


def test_sentence_transformers_pools_as_encode(folder: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="the extra dev has sentence-transformers")
    model = library.SentenceTransformer(str(folder), device="cpu", **TRUST)
    assert model.max_seq_length == 64
    np.testing.assert_allclose(model.encode(TEXTS), vectors(folder), atol=1e-6)


def test_a_folder_is_a_checkpoint(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    np.testing.assert_allclose(vectors(folder), vectors(checkpoint), atol=1e-6)
    assert as_file(checkpoint) == checkpoint
    file = as_file(folder, tmp_path)
    made = file.stat().st_mtime_ns
    assert as_file(folder, tmp_path) == file and file.stat().st_mtime_ns == made


def test_recipes_take_a_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\n" + "".join(f"{text}\n" for text in TEXTS))
    shared = ["--input", str(tmp_path / "a.tsv"), "--checkpoint", str(folder)]
    assert cli.main(["encode", *shared, "--out", str(tmp_path / "a.parquet")]) == 0
    assert cli.main(["encode", "--predict", *shared, "--out", str(tmp_path / "b.parquet")]) == 0
    assert cli.main(["finetune", "predict", *shared, "--out", str(tmp_path / "c.tsv")]) == 0
    assert set((tmp_path / "c.tsv").read_text().split()[1:]) <= {"law", "art", "sport"}
    assert cli.main(["convert", "inspect", str(folder)]) == 0
    assert cli.main(["convert", "extend", str(folder), str(tmp_path / "d.pt"), "--max-positions", "128"]) == 0
    assert (tmp_path / "d.tokenizer/dict.txt").is_file()


def test_what_transformers_saved_again_predicts_the_same(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\n" + "".join(f"{text}\n" for text in TEXTS))
    AutoModelForSequenceClassification.from_pretrained(folder, **TRUST).save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(folder, **TRUST).save_pretrained(tmp_path / "saved")
    scores = []
    for number, model in enumerate((folder, tmp_path / "saved")):
        out = tmp_path / f"{number}.parquet"
        words = ["encode", "--predict", "--checkpoint", model, "--input", tmp_path / "a.tsv", "--out", out]
        assert cli.main([str(word) for word in words]) == 0
        scores.append(parquet.read_table(out)["scores"].to_pylist())
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
