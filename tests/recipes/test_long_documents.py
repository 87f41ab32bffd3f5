"""The measurement of long documents, with a small random model and small made-up books and reviews."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from data_prep import encoders
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, untrained, write
from recipes.measure import long_documents
from recipes.measure.long_documents import ADAPTIVE, halves_found, longer, vectors_of, verdict

SETTINGS = {"encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 16, "encoder_attention_heads": 2}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A random model with exact attention that reads 32 tokens."""
    model = {"_name": "linformer_roberta", "attention": "exact", "local_conv": 0, "max_positions": 32, **SETTINGS}
    state = untrained(model, encoders.load(tokenizer).symbols).state_dict()
    file = tmp_path_factory.mktemp("exact") / "exact.pt"
    write(Checkpoint(state, model, {"data": str(tokenizer)}), file)
    return file


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Two authors with two books each, and one with one; every book has some words of its own."""
    chance, folder = random.Random(1), tmp_path / "books"
    folder.mkdir()
    for name in ("Ada__Blue", "Ada__Red", "Bob__North", "Bob__South", "Cy__Alone"):
        own = ["".join(chance.choices("aeioulmnrst", k=5)) for _ in range(6)]
        text = " ".join(chance.choices([*own, "the", "river", "city"], k=400))
        (folder / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture
def imdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reviews whose class shows only beyond their first 60 words, and a short one, which is left out."""
    monkeypatch.setattr(long_documents, "WORDS", 60)
    folder = tmp_path / "imdb"
    folder.mkdir()
    for name in ("train.tsv", "test.tsv"):
        lines = ["label\tsentence", "1\tgood"]
        lines += [f"{i % 2}\t{'the city ' * 31}{('bad cold', 'good warm')[i % 2]} {'river ' * i}" for i in range(12)]
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_every_reader_is_scored_on_every_collection(
    exact: Path, books: Path, imdb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_documents, "C", [1.0])
    words = [str(exact), "--books", str(books), "--imdb", str(imdb), "--out", str(tmp_path / "run"), "--parts", "2"]
    words += ["--max-positions", "64", "--lengths", "32", "--projected-length", "8", "--local-window", "0", "4"]
    words += ["--reviews", "12", "--rounds", "2", "--student", f"copy={exact}"]
    assert long_documents.MEASUREMENT.main(words) == 0
    cells = json.loads((tmp_path / "run/results.json").read_text())["cells"]
    scored = [cell for cell in cells.values() if "scores" in cell]
    assert len({cell["set"] for cell in scored}) == 2
    readers = {cell["reader"] for cell in scored}
    assert len(readers) == 11 and len(scored) == 22 and len(cells) == 22 * 3
    by_name = {(cell["set"], cell["reader"]): cell for cell in scored}
    title = "Book passages of 32 tokens"
    assert by_name[title, "TF-IDF"]["documents"] == 5 * 2 * 2
    assert set(by_name[title, "TF-IDF"]["scores"]) == {"book", "other half", "author of another book"}
    # The original reads 32 tokens: truncated there, in one chunk, and with more positions it computes the same.
    same = [by_name[title, name]["scores"] for name in ("first 256 tokens", "mean of chunks of 510", "student, copy")]
    assert same[0] == same[1] == same[2]
    table = (tmp_path / "run/table.md").read_text()
    assert "| converted, k = 8, W = 4 | " in table and "\nChunk means: " in table


def test_what_stands_at_the_end_of_a_review_is_seen(exact: Path, imdb: Path, tmp_path: Path) -> None:
    words = [
        str(exact),
        "--imdb",
        str(imdb),
        "--out",
        str(tmp_path / "run"),
        "--max-positions",
        "256",
        "--lengths",
        "256",
    ]
    words += ["--projected-length", "8", "--local-window", "0", "--positions", "tile", "--rounds", "1"]
    assert long_documents.MEASUREMENT.main(words) == 0
    cells = json.loads((tmp_path / "run/results.json").read_text())["cells"]
    scores = {cell["reader"]: cell["scores"]["label"] for cell in cells.values() if "scores" in cell}
    assert min(scores["TF-IDF"]) == 100
    assert max(scores["first 256 tokens"]) < 100


def test_of_a_long_document_the_head_all_in_chunks_or_all_at_once_is_read(exact: Path) -> None:
    source = long_documents.read(exact)
    document = np.arange(4, 64)
    head, _ = vectors_of(source, 32, "head", [document])
    assert np.allclose(head, vectors_of(source, 32, "head", [document[:30]])[0])
    assert np.allclose(np.linalg.norm(head), 1)
    chunks, _ = vectors_of(source, 32, "chunks", [document, document[:30]])
    assert np.allclose(chunks[1], head[0], atol=1e-6) and not np.allclose(chunks[0], head[0], atol=1e-3)
    settings = ({}, ADAPTIVE | {"projected_length": "62"}, ADAPTIVE | {"projected_length": "8"})
    models = (longer(source, 62, "tile", **each) for each in settings)
    whole, slots, few = (vectors_of(model, 62, "head", [document])[0] for model in models)
    assert np.allclose(whole, slots, atol=1e-5) and not np.allclose(whole, few, atol=1e-5)


def test_the_other_half_is_searched_from_either_side() -> None:
    half, test = np.array([0, 1, 0, 1]), np.array([True, True, False, False])
    right = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert halves_found(right, half, test) == 100
    assert halves_found(right[[0, 2, 2, 1]], half, test) == 0
    # The first half finds its own; for the second half the other first half is nearer.
    assert halves_found(np.array([[1.0, 0], [0.8, 0.6], [0.6, 0.8], [0, -1]]), half, test) == 50


def test_the_verdict_says_where_chunks_win() -> None:
    def reader(name: str, **scores: list[float]) -> dict[str, object]:
        return {"reader": name, "scores": scores}

    found = [
        reader("mean of chunks of 256", book=[80, 81, 82], label=[70, 71, 72], half=[50, 50, 50]),
        reader("mean of chunks of 510", book=[10, 11, 12], label=[50, 51, 52], half=[50, 50, 50]),
        reader("converted, k = 8, W = 0", book=[70, 71, 72], label=[60, 72, 73], half=[90, 90, 90]),
    ]
    assert verdict(found, "mean of chunks") == (
        "win in book (81.0 and 71.0); draw in label (71.0 and 72.0); lose in half (50.0 and 90.0)"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name a folder of books with --books"),
        (("--books", "nowhere"), "--books nowhere: must hold two .txt files"),
        (("--imdb", "nowhere"), "nowhere/train.tsv: no such file"),
        (("--books", "nowhere", "--lengths", "8192"), "--lengths 8192: must lie between"),
        (("--books", "nowhere", "--parts", "1"), "--parts 1: must be at least 2"),
    ],
)
def test_without_data_a_sentence_says_what_to_give(
    exact: Path, tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert long_documents.MEASUREMENT.main([str(exact), "--out", str(tmp_path / "run"), *words]) != 0
    assert said in capsys.readouterr().err


def test_a_student_is_named(exact: Path, books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(exact), "--books", str(books), "--out", str(tmp_path / "run"), "--max-positions", "64"]
    words += ["--parts", "2", "--lengths", "64", "--projected-length", "8", "--student", "student.pt"]
    assert long_documents.MEASUREMENT.main(words) != 0
    assert "--student student.pt: must be NAME=FILE" in capsys.readouterr().err
