"""The measurement of what conversion keeps, with a small random model and small made-up sentences and books."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep import encoders
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, read, untrained, write
from linformer_fairseq.checkpoints.warm_start import to_linformer
from recipes.measure.converted import MEASUREMENT, PASSAGES, found_in, read_passages, vectors_of

SETTINGS = {"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 16, "encoder_attention_heads": 2}
FIGURES = ("Spearman", "difference", "cosine", "quarters", "halves")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A random model with exact attention that reads 32 tokens; large weights make attention matter."""
    model = {"_name": "linformer_roberta", "attention": "exact", "local_conv": 0, "max_positions": 32, **SETTINGS}
    made = untrained(model, encoders.load(tokenizer).symbols)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_()
    file = tmp_path_factory.mktemp("exact") / "exact.pt"
    write(Checkpoint(made.state_dict(), model, {"data": str(tokenizer)}), file)
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """STS-B with sentences of different lengths, and two books."""
    chance = random.Random(1)

    def text(count: int) -> str:
        return " ".join(chance.choices("the a river garden child teacher book city winter letter".split(), k=count))

    (tmp_path / "STS-B").mkdir()
    lines = [f"{text(2 + i)}\t{text(1 + i)}\t{i % 5}.5" for i in range(12)]
    (tmp_path / "STS-B/dev.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *lines]) + "\n")
    (tmp_path / "books").mkdir()
    for name in ("One", "Two"):
        (tmp_path / f"books/{name}.txt").write_text(text(600))
    return tmp_path


def measured(exact: Path, data: Path, *words: str) -> int:
    texts = ("--stsb", str(data / "STS-B"), "--texts", str(data / "books"), "--tokens", "32")
    return MEASUREMENT.main([str(exact), *texts, "--out", str(data / "run"), *words])


def test_each_row_shows_what_its_model_keeps(exact: Path, data: Path) -> None:
    original, student = read(exact), data / "student.pt"
    write(to_linformer(original, "8", kind="adaptive", window=2), student)
    words = ("--projected-length", "32", "8", "--local-window", "0", "2", "--student", f"copy={student}")
    assert measured(exact, data, *words) == 0
    cells: dict[str, dict[str, Any]] = json.loads((data / "run/results.json").read_text())["cells"]
    assert [*cells] == [
        *("original", "fixed blocks, k = 32", "adaptive, k = 32, W = 0", "adaptive, k = 32, W = 2"),
        *("adaptive, k = 8, W = 0", "adaptive, k = 8, W = 2", "window alone, W = 2"),
        *("student, copy", "student, copy, slots off", "student, copy, window off"),
    ]

    def same(one: str, other: str) -> bool:
        return all(np.isclose(cells[one][key], cells[other][key], atol=1e-5) for key in FIGURES)

    # With n slots attention is exact, and with 8 it is for texts of up to 8 tokens.
    assert cells["original"]["difference"] == 0 and np.isclose(cells["original"]["cosine"], 1)
    assert all(same("original", f"adaptive, k = 32, W = {window}") for window in (0, 2))
    for window in (0, 2):
        row = cells[f"adaptive, k = 8, W = {window}"]
        assert row["difference"] < 1e-6 and 0 < row["short"] < cells["original"]["short"] == 24
        assert row["cosine"] < 0.999
    assert cells["window alone, W = 2"]["difference"] > 1e-3 and cells["window alone, W = 2"]["short"] == 24
    # A student that was not trained is what conversion has made.
    assert same("student, copy", "adaptive, k = 8, W = 2") and not same("student, copy", "adaptive, k = 8, W = 0")
    assert same("student, copy, slots off", "window alone, W = 2")
    assert same("student, copy, window off", "adaptive, k = 8, W = 0")
    table = (data / "run/table.md").read_text()
    assert "| cosine, 32 tokens | halves of 15 found, % | halves of 30 found, % |" in table
    assert f"| original | {cells['original']['Spearman']:.2f} | 24 | 0.0e+00 | 1.0000 |" in table
    assert "--student copy=DATA\n" in table and str(data) not in table + (data / "run/results.json").read_text()


def test_students_are_added_to_what_is_measured(exact: Path, data: Path) -> None:
    few = ("--projected-length", "8", "--local-window", "0")
    assert measured(exact, data, *few) == 0
    before = json.loads((data / "run/results.json").read_text())["cells"]
    assert measured(exact, data, *few, "--student", f"copy={exact}") == 0
    after = json.loads((data / "run/results.json").read_text())["cells"]
    assert after == before | {"student, copy": before["original"]}


def test_a_vector_is_the_mean_over_all_tokens(exact: Path) -> None:
    model = read(exact)
    long, short = np.array([0, 5, 6, 7, 8, 2]), np.array([0, 9, 2])
    (vectors, again) = vectors_of(model, [[long, short], [short]])
    with torch.no_grad():
        features = build(model)(torch.from_numpy(short)[None], features_only=True)[0][0].mean(0).numpy()
    np.testing.assert_allclose(vectors[1], features / np.linalg.norm(features), atol=1e-6)
    np.testing.assert_allclose(again[0], vectors[1], atol=1e-6)


def test_a_half_is_searched_among_all_second_halves() -> None:
    right = np.eye(3, dtype=np.float32)
    assert found_in(np.concatenate([right, right])) == 100
    assert found_in(np.concatenate([right, right[[1, 2, 0]]])) == 0
    assert found_in(np.concatenate([right, right[[0, 2, 1]]])) == pytest.approx(100 / 3)


def test_passages_begin_at_words_and_follow_each_other_in_a_book(data: Path, tokenizer: Path) -> None:
    encoder = encoders.load(tokenizer)
    passages = read_passages(data / "books", encoder, 40)
    assert passages.shape == (2 * PASSAGES, 40)
    for name, rows in zip(("One", "Two"), np.split(passages, 2), strict=True):
        whole = encoder.encode([(data / f"books/{name}.txt").read_text()])[0].tolist()
        places = [next(i for i in range(len(whole)) if whole[i : i + 40] == row.tolist()) for row in rows]
        assert places == sorted(places) and min(np.diff(places)) > 40
        assert all(encoder.starts_word[row[0]] for row in rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tokens", "64"), "--tokens 64: must lie between 6 and 32"),
        (("--tokens", "4"), "--tokens 4: must lie between 6 and 32"),
        (("--student", "student.pt"), "--student student.pt: must be NAME=FILE"),
        (("--stsb", "nowhere"), "nowhere/dev.tsv: no such file"),
        (("--texts", "nowhere"), "--texts nowhere: has no .txt files"),
    ],
)
def test_a_sentence_says_what_to_give(
    exact: Path, data: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured(exact, data, *words) != 0
    assert said in capsys.readouterr().err


def test_a_book_that_is_too_short_is_named(exact: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "books/Short.txt").write_text("the river " * 10)
    assert measured(exact, data) != 0
    assert "Short.txt: is too short for 3 passages" in capsys.readouterr().err


def test_a_converted_model_is_no_original(exact: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(to_linformer(read(exact), "8", kind="adaptive"), data / "converted.pt")
    assert measured(data / "converted.pt", data) != 0
    assert "converted.pt has --attention linformer; convert its model with --attention exact" in capsys.readouterr().err
