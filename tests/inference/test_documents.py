"""Reading documents a window at a time, from anywhere in them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference import inputs
from linformer_fairseq.inference.inputs import Inputs, find_files, texts_of, windows

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


@pytest.mark.parametrize("form", ["parquet", "tsv", "csv", "jsonl"])
@pytest.mark.parametrize("skip", [0, 1, 699, 700, 1024, 2400, 2499, 2500])
def test_every_form_is_read_from_any_row(form: str, skip: int, tmp_path: Path) -> None:
    found = Inputs((written(tmp_path, form),), ("text",), ("id",))
    assert found.count() == 2500
    rows = [row for batch in found.batches(skip) for row in batch.to_pylist()]
    assert [(row["text"], int(row["id"])) for row in rows] == ROWS[skip:]


def test_files_of_a_folder_are_one_input(tmp_path: Path) -> None:
    path = tmp_path / "docs"
    (path / "b/.hidden").mkdir(parents=True)
    for name, text in (("b/one", ["c", "d"]), ("a", ["a", "b"]), ("b/.hidden/no", ["x"]), ("c", [])):
        kind = pa.large_string() if name == "a" else pa.string()  # which is the same to us
        pq.write_table(pa.table({"text": pa.array(text, kind)}), path / f"{name}.parquet")
    files = find_files([path, path / "a.parquet"])
    found = Inputs(files, ("text",))
    assert found.count() == 6
    table = pa.Table.from_batches(found.batches())
    assert table.column("text").to_pylist() == ["a", "b", "c", "d", "a", "b"]
    assert pa.Table.from_batches(found.batches(3)).column("text").to_pylist() == ["d", "a", "b"]


def test_windows_are_cut_at_the_same_rows_wherever_reading_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "CHARACTERS", 4000)
    texts = ["x" * (i * 37 % 700) for i in range(300)] + ["long" * 3000, None, "é"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=90)
    found = Inputs((tmp_path / "a.parquet",), ("text",))
    cut = [w.num_rows for w in windows(found.batches(), ("text",), 13)]
    assert sum(cut) == 303 and max(cut) == 13 and len(cut) > 20
    for begun in range(len(cut)):
        rest = [w.num_rows for w in windows(found.batches(sum(cut[:begun])), ("text",), 13)]
        assert rest == cut[begun:]
    sizes = iter(len(text or "") for text in texts)
    for rows in cut:
        assert sum(next(sizes) for _ in range(rows)) <= 4000 or rows == 1


def test_rows_without_text_have_none() -> None:
    table = pa.table({"a": ["one  two\n", None, "", " \t"], "b": ["x", "x", "x", "x"]})
    assert texts_of(table, ("a", "b")) == [("one two", "x"), None, None, None]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"body": ["a"]}, "no column text; it has body"),
        ({"text": [1]}, "column text has the type int64, not text; --text-column must name a column of strings"),
        ({"text": []}, "has the type null, not text"),
        ({"text": pa.array([], pa.string())}, "no rows; there is nothing to encode"),
    ],
)
def test_what_cannot_be_encoded_is_refused(content: dict[str, list[object]], message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(content), tmp_path / "a.parquet")
    found = Inputs((tmp_path / "a.parquet",), ("text",))
    with pytest.raises(UsageError, match=message):
        found.schema()
        found.count()


def test_columns_to_keep_must_have_one_type(tmp_path: Path) -> None:
    for name, key in (("a", 1), ("b", "1")):
        pq.write_table(pa.table({"text": ["a"], "id": [key]}), tmp_path / f"{name}.parquet")
    with pytest.raises(UsageError, match="b.parquet: the columns to keep have other types than in"):
        Inputs(find_files([tmp_path]), ("text",), ("id",)).schema()


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


def test_a_broken_row_is_found_while_rows_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tid\na\t1\nb\n")
    with pytest.raises(UsageError, match="a.tsv: row 2 has other columns than the first line"):
        Inputs((path,), ("text",)).count()


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="docs.parquet: not a Parquet file .*; name another --input"):
        Inputs((path,), ("text",)).schema()
