"""The extract stage: shards, records, reruns, and the command line's refusals."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.extract import extract
from data_prep.stage import DataPrepError

BOOKS = {"One.txt": "A first book.\n\nIt has two paragraphs.", "Two.txt": "A second book.", "Zero.txt": "\n \n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three books, one of them empty."""
    path = tmp_path / "books"
    path.mkdir()
    for name, text in BOOKS.items():
        (path / name).write_text(text)
    return path


def states(folder: Path) -> dict[str, int]:
    """When each file was last written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_text_arrives_as_it_went_in(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    result = extract("books", [folder], out)
    rows = pq.read_table(out / "books-00000.parquet").to_pylist()
    assert [(row["id"], row["source"], row["text"]) for row in rows] == [
        ("One", "books", "A first book.\nIt has two paragraphs."),
        ("Two", "books", "A second book."),
    ]
    assert all(row["sha256"] == hashlib.sha256(row["text"].encode()).hexdigest() for row in rows)
    assert result == {"documents": 2, "characters": 50, "shards": 1, "empty_documents": 1}


def test_shards_are_cut_at_their_size_and_lose_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.corpus.ROW_GROUP_CHARACTERS", 1)
    monkeypatch.setattr("data_prep.corpus.SHARD_CHARACTERS", 1)
    out = tmp_path / "corpus"
    assert extract("books", [folder], out)["shards"] == 2
    texts = [row["text"] for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert texts == ["A first book.\nIt has two paragraphs.", "A second book."]


def test_a_second_run_does_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "corpus"
    first = extract("books", [folder], out)
    before = states(out)
    assert extract("books", [folder], out) == first
    assert states(out) == before and "already finished" in capsys.readouterr().out


def test_other_input_into_the_same_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    extract("books", [folder], tmp_path / "corpus")
    (folder / "Two.txt").write_text("A second book, in a new edition.")
    with pytest.raises(DataPrepError, match=r"corpus holds the result of other settings \(inputs changed"):
        extract("books", [folder], tmp_path / "corpus")


def test_several_sources_share_a_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    extract("books", [folder], out)
    extract("text", [folder / "One.txt"], out)
    assert sorted(p.name for p in out.glob("*.parquet")) == ["books-00000.parquet", "text-00000.parquet"]


def test_a_failure_leaves_no_shard_behind(folder: Path, tmp_path: Path) -> None:
    (folder / "Three.txt").write_bytes(b"\xff")
    with pytest.raises(DataPrepError, match=r"Three\.txt: not UTF-8"):
        extract("books", [folder], tmp_path / "corpus")
    assert not list(tmp_path.glob("corpus/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "books", "nowhere"], "nowhere: no such file or folder"),
        (["--source", "text"], "--source text needs at least one IN"),
        (["--source", "books", "books/Zero.txt"], "--source books: no text found in books/Zero.txt"),
        (["--source", "docstrings", "books"], "--source docstrings: no text found in books"),
    ],
)
def test_wrong_use_ends_with_one_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main(["extract", *arguments, "--out", "corpus"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"data_prep extract: error: {message}")


def test_help_shows_examples_without_importing_fairseq() -> None:
    code = """if True:
        import sys
        from data_prep.__main__ import main
        try:
            main(["--help"])
        finally:
            assert "torch" not in sys.modules
    """
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "python -m data_prep binarize corpus" in run.stdout
