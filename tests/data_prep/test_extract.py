"""The extract stage: files, records, reruns, and the command line's refusals."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pyarrow.parquet as pq
import pytest

import data_prep
from data_prep.__main__ import main
from data_prep.config import ReadingConfig, SourceConfig
from data_prep.extract import extract as extract_stage
from linformer_fairseq.errors import UsageError

BOOKS = {"One.txt": "A first book.\n\nIt has two paragraphs.", "Two.txt": "A second book.", "Zero.txt": "\n \n"}


def extract(source: str, inputs: list[Path | str], out: Path, name: str | None = None, on_error: str = "stop") -> Any:
    """Run the stage."""
    return extract_stage(SourceConfig(source, [str(path) for path in inputs], name), out, ReadingConfig(on_error))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three books, one of them empty, and a cover."""
    path = tmp_path / "books"
    path.mkdir()
    for name, text in BOOKS.items():
        (path / name).write_text(text)
    (path / "cover.jpg").write_bytes(b"\xff\xd8")
    return path


def states(folder: Path) -> dict[str, int]:
    """When each file was last written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


def test_text_arrives_as_it_went_in(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    result = extract("books", [folder], out)["result"]
    rows = pq.read_table(out / "books-00000-000.parquet").to_pylist()
    assert [(row["id"], row["source"], row["text"]) for row in rows] == [
        ("One", "books", "A first book.\nIt has two paragraphs."),
        ("Two", "books", "A second book."),
    ]
    assert all(row["sha256"] == hashlib.sha256(row["text"].encode()).hexdigest() for row in rows)
    assert (result["documents"], result["characters"], result["skipped"]) == (2, 50, [])
    assert result["left_out"] == {".jpg files": 1, "empty": 1}


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "..", ".hidden", "a\n"])
def test_a_name_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="begins the names of files"):
        extract("books", [folder], tmp_path / "a/b/corpus", name)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_second_run_does_nothing_and_other_input_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "corpus"
    before = extract("books", [folder], out), states(out)
    assert (extract("books", [folder], out), states(out)) == before
    assert "already finished" in capsys.readouterr().out
    (folder / "Three.txt").write_text("A third book.")
    with pytest.raises(UsageError, match="inputs changed.*delete that folder or choose another --out"):
        extract("books", [folder], out)


def test_two_sources_share_a_corpus(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    extract("books", [folder], out)
    extract("text", [folder], out, name="lines")
    assert sorted(path.name for path in out.glob("*.parquet")) == ["books-00000-000.parquet", "lines-00000-000.parquet"]


def test_wildcards_are_expanded(folder: Path, tmp_path: Path) -> None:
    assert extract("books", [f"{folder}/*ne.txt"], tmp_path / "corpus")["result"]["documents"] == 1
    with pytest.raises(UsageError, match="no file matches"):
        extract("books", [f"{folder}/*.pdf"], tmp_path / "other")


def test_bad_input_stops_or_is_skipped_counted_and_listed(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "good"}\n{broken\n{"text": "good, too"}\n')
    with pytest.raises(UsageError, match=r"a\.jsonl.*line 2.*--on-error skip"):
        extract("jsonl", [source], tmp_path / "stop")
    result = extract("jsonl", [source], tmp_path / "stop", on_error="skip")["result"]  # as the message says
    assert result["documents"] == 2 and len(result["skipped"]) == 1 and "line 2" in result["skipped"][0]


def test_standard_input_is_read(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "data_prep", "extract", "--source", "text", "-", "--out", str(tmp_path)],
        input="One paragraph.\nAnother one.\n",
        text=True,
        capture_output=True,
        cwd=Path(data_prep.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "text-00000-000.parquet")["text"].to_pylist() == ["One paragraph.\nAnother one."]


def test_pipes_are_read(tmp_path: Path) -> None:
    command = f"{sys.executable} -m data_prep extract --source text <(echo One.) <(echo Two.) --out {tmp_path}/out"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=Path(data_prep.__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "out/text-00000-000.parquet")["text"].to_pylist() == ["One.", "Two."]


def test_names_that_are_no_utf8_and_files_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"caf\xe9.txt", b"a\nb\\.txt", b"empty.txt", *(b"%d.xyz" % n for n in range(3))):
        Path(os.fsdecode(bytes(folder / "x")[:-1] + name)).write_text("" if name == b"empty.txt" else "Text.")
    assert extract("text", [folder], tmp_path / "out")["result"]["documents"] == 2
    assert "4 of 6 files left out: .xyz (3), empty (1)" in capsys.readouterr().out
    check = ["sha256sum", "--check", "--strict", str(tmp_path / "out/extract-text.sha256")]
    assert subprocess.run(check, capture_output=True).stdout.count(b": OK") == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_file_without_permission_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "One.txt").chmod(0)
    tmp_path.chmod(0o777)
    for path in itertools.takewhile(lambda path: path != Path(gettempdir()), tmp_path.parents):
        path.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(UsageError, match=r"One\.txt: cannot be opened \(Permission denied\)"):
            extract("books", [folder], tmp_path / "corpus")
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "books"], "--source books needs at least one IN"),
        (["--source", "books", "absent"], "absent: no such file or folder"),
        (["--source", "books", "empty"], "empty: "),
        (
            ["--source", "text", "x.txt", "--text-column", "body"],
            "--text-column: --source text has no such setting; it is for jsonl",
        ),
        (["--source", "text", "x.txt", "--name", ""], "--name : begins the names of files"),
        (["--source", "text", "x.txt"], "x.txt"),
        (["--source", "text", "x.txt", "--encoding", "klingon"], "--encoding klingon: unknown"),
        (["--source", "docstrings", "absent"], "absent: no such folder"),
    ],
)
def test_wrong_use_is_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("x.txt").touch()
    assert main(["extract", *arguments, "--out", "corpus"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and error.startswith("data_prep extract: error: ")


@pytest.mark.parametrize("out", [".", "corpus"])
def test_an_output_that_would_be_read_as_input_is_refused(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "Some words."}\n')
    (tmp_path / "a.txt").write_text("Some words.\n")
    words = [str(tmp_path), "--out", str(tmp_path / out)]
    assert main(["extract", "--source", "jsonl", *words]) == 1
    assert "would be read as input; choose another place" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "a.txt"}
    for said in ("1 documents", "already finished"):  # no text is written there
        assert main(["extract", "--source", "text", *words]) == 0
        assert said in capsys.readouterr().out


def test_records_tell_what_was_made(folder: Path, tmp_path: Path) -> None:
    extract("books", [folder], tmp_path / "corpus")
    record = json.loads((tmp_path / "corpus/extract-books.json").read_text())
    path = tmp_path / "corpus/books-00000-000.parquet"
    assert record["files"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hashes_of_the_input_are_what_sha256sum_checks(folder: Path, tmp_path: Path) -> None:
    record = extract("books", [folder], tmp_path / "corpus")
    assert "extract-books.sha256" in record["files"]
    check = ["sha256sum", "--check", "--strict", str(tmp_path / "corpus/extract-books.sha256")]
    assert subprocess.run(check, capture_output=True, text=True, check=True).stdout.count(": OK") == 3
    (folder / "One.txt").write_text("Another book.")
    assert subprocess.run(check, capture_output=True).returncode == 1
