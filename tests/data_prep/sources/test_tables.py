"""Rows of Parquet and Arrow files become documents, whatever the files are called and however they are cut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from data_prep.sources import ReadErrors, tables
from linformer_fairseq.errors import UsageError

KINDS = ("parquet", "arrow", "stream", "feather")


def write(path: Path, table: pa.Table, kind: str = "parquet", rows: int = 100) -> Path:
    """A file in parts of some rows."""
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=rows)
    elif kind == "feather":
        pyarrow.feather.write_feather(table, str(path), chunksize=rows)
    else:
        new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    return path


def read(path: Path, problems: ReadErrors, column: str | None = None) -> list[tuple[str, str, str]]:
    """(id, title, text) of all documents of all pieces."""
    found = [d for piece in tables.pieces(path) for d in tables.documents(piece, problems, column)]
    return [(d.id, d.title, d.text) for d in found]


@pytest.mark.parametrize("kind", KINDS)
def test_wikipedia_as_hugging_face_ships_it(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PIECE", 500)
    monkeypatch.setattr(tables, "BATCH_ROWS", 30)
    rows = [{"id": f"{n}", "url": "https://…", "title": f"T{n}", "text": f"Text {n}\n\né"} for n in range(350)]
    path = write(tmp_path / "file", pa.Table.from_pylist(rows), kind)
    assert read(path, ReadErrors()) == [(f"{n}", f"T{n}", f"Text {n}\né") for n in range(350)]
    pieces = tables.pieces(path)
    assert len(pieces) == (1 if kind == "stream" else 4)
    assert sum(piece.size for piece in pieces) <= path.stat().st_size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_every_type_of_text(tmp_path: Path, kind: str, type_: pa.DataType) -> None:
    if kind == "feather" and type_ == pa.string_view():
        pytest.skip("Feather has no such type")
    column = pa.array(["one", None, "three", "one"], pa.string())
    column = column.dictionary_encode() if pa.types.is_dictionary(type_) else column.cast(type_)
    path = write(tmp_path / "a.x", pa.table({"n": [1, 2, 3, 4], "body": column}), kind, 2)
    name = "a:0:2" if kind == "stream" else "a:1:0"
    assert read(path, ReadErrors())[1:3] == [("a:0:1", "", ""), (name, "", "three")]


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        ({"n": [1]}, None, r"no column 'text' of text; choose one of its columns with --text-column: n \(int64\)"),
        ({"a": ["x"], "b": ["y"]}, None, r"no column 'text' of text; .*: a \(string\), b \(string\)"),
        ({"text": ["x"]}, "body", "no column 'body' of text"),
        ({"text": [1], "a": ["x"]}, "text", "no column 'text' of text"),
    ],
)
def test_a_table_without_such_a_column(
    tmp_path: Path, columns: dict[str, list[Any]], wanted: str | None, message: str
) -> None:
    path = write(tmp_path / "a.parquet", pa.table(columns))
    with pytest.raises(UsageError, match=rf"a\.parquet: {message}"):
        read(path, ReadErrors(), wanted)
    problems = ReadErrors(skip=True)
    assert read(path, problems, wanted) == [] and len(problems.skipped) == 1


def test_bad_rows_are_named_and_the_others_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LARGEST_DOCUMENT", 100)
    values = [b"one", b"caf\xe9", b"a\0b", b"x" * 101, b"five"]
    column = pa.Array.from_buffers(pa.string(), 5, pa.array(values, pa.binary()).buffers())
    path = write(tmp_path / "a.parquet", pa.table({"text": column}))
    problems = ReadErrors(skip=True)
    assert [text for _, _, text in read(path, problems)] == ["one", "five"]
    assert [line.removeprefix(f"{path}: ") for line in problems.skipped] == [
        "row group 0, row 1: not UTF-8 at byte 4 of a value",
        "row group 0, row 2: has a NUL character, so it is not text",
        "row group 0, row 3: longer than 0 MB",
    ]
    with pytest.raises(UsageError, match="row group 0, row 1: not UTF-8"):
        read(path, ReadErrors())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_damaged_file_is_reported(tmp_path: Path, kind: str, keep: float) -> None:
    table = pa.table({"text": [f"{n}" * 50 for n in range(1000)]})
    path = write(tmp_path / "a.file", table, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    problems = ReadErrors(skip=True)
    found = read(path, problems)
    assert len(problems.skipped) == 1 and problems.skipped[0].startswith(f"{path}: ")
    assert [text for _, _, text in found] == [f"{n}" * 50 for n in range(len(found))]


def test_other_files_and_empty_tables_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("just text")
    with pytest.raises(UsageError, match=r"a\.parquet: cannot be read \(neither Parquet nor Arrow\)"):
        read(path, ReadErrors())
    for kind in KINDS:
        write(path, pa.table({"text": pa.array([], pa.string())}), kind)
        problems = ReadErrors()
        assert read(path, problems) == [] and problems.left_out == {"empty files": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_in_lists_and_fields(tmp_path: Path, kind: str) -> None:
    names = pa.array(["u", "v"]).dictionary_encode()
    columns = {
        "text": pa.array([b"caf\xc3\xa9", None], pa.binary()),
        "list": pa.array([["a\u2028b", None, "c"], None], pa.large_list(pa.string())),
        "in": pa.array([{"a": {"b": ["q", "r"]}}, None]),
        "many": pa.array([[{"t": "x"}, {"t": "y"}], []]),
        "names": pa.StructArray.from_arrays([names], ["d"]),
        "map": pa.array([[("k", "m"), ("l", "n")], None], pa.map_(pa.string(), pa.string())),
        "view": pa.array([["o", None, "p"], None], pa.list_view(pa.string())),
        "views": pa.array([[{"t": ["s", "t"]}], []], pa.large_list_view(pa.struct({"t": pa.list_(pa.string())}))),
        "none": pa.array([None, None], pa.null()),
    }
    if kind == "feather":
        del columns["none"], columns["view"], columns["views"]  # Feather has no such types
    path = Path(os.fsdecode(bytes(tmp_path / "caf") + b"\xe9"))
    write(tmp_path / "a", pa.table(columns), kind).rename(path)
    wanted = {None: ["café", ""], "list": ["a b\nc", ""], "in.a.b": ["q\nr", ""], "many.t": ["x\ny", ""]}
    wanted |= {"names.d": ["u", "v"], "map.key": ["k\nl", ""], "map.value": ["m\nn", ""]}
    if kind != "feather":
        wanted |= {"none": ["", ""], "view": ["o\np", ""], "views.t": ["s\nt", ""]}
    assert {name: [text for _, _, text in read(path, ReadErrors(), name)] for name in wanted} == wanted
    named = r"in\.a\.b \(list.*, many\.t \(string\), .*map\.key \(string\), map\.value \(string\)"
    with pytest.raises(UsageError, match=rf"no column 'in' of text; .*: .*{named}"):
        read(path, ReadErrors(), "in")


def test_ids_and_titles_are_not_taken_for_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"id": ["x"], "title": ["T"], "body": ["Text."]}))
    assert read(path, ReadErrors()) == [("x", "T", "Text.")]
    write(path, pa.table({"id": ["x"], "body": [["One.", "Two."]]}))
    with pytest.raises(UsageError, match=r"no column 'text' of text; .*: id \(string\), body \(list"):
        read(path, ReadErrors())
