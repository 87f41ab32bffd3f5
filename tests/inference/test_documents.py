"""Documents in every format, cut into windows and read from any row."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference import documents
from linformer_fairseq.inference.documents import Documents, cut_windows, find_files, texts_of, window_file

ROWS = [(f"document {i}", i) for i in range(2500)]


def written(folder: Path, form: str) -> Path:
    path = folder / f"{form}/docs.{form}"
    path.parent.mkdir()
    if form == "parquet":
        pq.write_table(pa.table({"text": [t for t, _ in ROWS], "id": [i for _, i in ROWS]}), path, row_group_size=700)
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for t, i in ROWS))
    else:
        comma = "\t" if form == "tsv" else ","
        path.write_text(f"id{comma}text\n" + "".join(f"{i}{comma}{t}\n" for t, i in ROWS))
    return path


def cut(found: Documents, folder: Path, rows: int = 1000) -> list[pa.Table]:
    """The windows of documents."""
    sizes = cut_windows(found, rows, folder).result["windows"]
    windows = [pq.read_table(window_file(folder, number)) for number in range(len(sizes))]
    assert [window.num_rows for window in windows] == sizes
    return windows


@pytest.mark.parametrize("form", ["parquet", "tsv", "csv", "jsonl"])
def test_every_form_is_cut_into_windows(form: str, tmp_path: Path) -> None:
    windows = cut(Documents((written(tmp_path, form),), ("text",), ("id",)), tmp_path)
    assert [window.num_rows for window in windows] == [1000, 1000, 500]
    found = [(row["text"], int(row["id"])) for window in windows for row in window.to_pylist()]
    assert found == ROWS


def test_files_of_a_folder_are_one_input(tmp_path: Path) -> None:
    path = tmp_path / "docs"
    (path / "b/.hidden").mkdir(parents=True)
    for name, text in (("b/one", ["c", "d"]), ("a", ["a", "b"]), ("b/.hidden/no", ["x"]), ("c", [])):
        kind = pa.large_string() if name == "a" else pa.string()  # two types of text
        pq.write_table(pa.table({"text": pa.array(text, kind)}), path / f"{name}.parquet")
    windows = cut(Documents(find_files([path, path / "a.parquet"]), ("text",)), tmp_path, 4)
    texts = [window.column("text").to_pylist() for window in windows]
    assert texts == [["a", "b", "c", "d"], ["a", "b"]]


def test_columns_to_keep_have_their_types_in_every_window(tmp_path: Path) -> None:
    path = tmp_path / "docs.parquet"
    words = [f"word {i % 7}" for i in range(3000)]
    table = pa.table({"text": pa.array(words).dictionary_encode(), "n": [[i] for i in range(3000)]})
    pq.write_table(table, path)
    windows = cut(Documents((path,), ("text",), ("n", "text")), tmp_path, 1100)
    assert all(window.schema.types == table.schema.types for window in windows)
    assert [row for window in windows for row in window.to_pylist()] == table.to_pylist()


def test_windows_have_limited_rows_and_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "WINDOW_CHARACTERS", 4000)
    texts = ["x" * (i * 37 % 700) for i in range(300)] + ["long" * 3000, None, "é"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=90)
    windows = [
        table.column("text").to_pylist() for table in cut(Documents((tmp_path / "a.parquet",), ("text",)), tmp_path, 13)
    ]
    assert len(windows) > 20 and max(map(len, windows)) == 13
    assert [text for window in windows for text in window] == texts
    for window in windows:
        assert sum(len(text or "") for text in window) <= 4000 or len(window) == 1


def test_rows_without_text_have_none() -> None:
    table = pa.table({"a": ["one  two\n", None, "", " \t"], "b": ["x", "x", "x", "x"]})
    assert texts_of(table, ("a", "b")) == [("one two", "x"), None, None, None]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"body": ["a"]}, "no column text; it has body"),
        ({"text": [1]}, "column text has the type int64, not text; --text-column must name a column of strings"),
        ({"text": [["a"]]}, "has the type list<.*>, not text"),
        ({"text": []}, "has the type null, not text"),
        ({"text": pa.array([], pa.string())}, "no rows; there is nothing to encode"),
    ],
)
def test_what_cannot_be_encoded_is_refused(content: dict[str, list[object]], message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(content), tmp_path / "a.parquet")
    found = Documents((tmp_path / "a.parquet",), ("text",))
    with pytest.raises(UsageError, match=message):
        cut_windows(found, 8, tmp_path)


def test_columns_to_keep_must_have_one_type(tmp_path: Path) -> None:
    for name, key in (("a", 1), ("b", "1")):
        pq.write_table(pa.table({"text": ["a"], "id": [key]}), tmp_path / f"{name}.parquet")
    with pytest.raises(UsageError, match="b.parquet: the columns to keep have other types than in"):
        Documents(find_files([tmp_path]), ("text",), ("id",)).schema()


@pytest.mark.parametrize(
    "name, message",
    [
        ("absent.parquet", "--input .*absent.parquet: no such file or folder"),
        ("docs.txt", "its name must end with one of .tsv, .csv, .jsonl, .parquet"),
        ("folder", "no .parquet files in this folder; name the files themselves"),
    ],
)
def test_inputs_that_are_none_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=message):
        find_files([tmp_path / name])


def test_a_broken_row_is_found_before_anything_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tid\na\t1\nb\n")
    with pytest.raises(UsageError, match="a.tsv: row 2 has 1 columns instead of 2"):
        cut_windows(Documents((path,), ("text",)), 8, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tsv"]


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="docs.parquet: not a Parquet file, .*; make it again, or name another file"):
        Documents((path,), ("text",)).schema()
