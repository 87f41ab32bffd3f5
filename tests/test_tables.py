"""Tables in every form, and each thing that can be wrong with a row."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.errors import UsageError
from linformer_fairseq.tables import Table, read_table

ROWS = [("A good  one.", "yes"), ("It's \"not\" so, 'good'.", "no"), ("Ünïcode, too", "yes")]


def written(folder: Path, form: str) -> Path:
    """The rows in one form."""
    path = folder / f"table.{form}"
    if form == "tsv":
        path.write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in ROWS), encoding="utf-8")
    elif form == "csv":
        lines = ['"{}",{}'.format(text.replace('"', '""'), label) for text, label in ROWS]
        path.write_text("text,label\r\n" + "\r\n".join(lines), encoding="utf-8-sig")
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps({"text": text, "label": label, "id": 1}) for text, label in ROWS))
    else:
        pq.write_table(pa.table({"text": [r[0] for r in ROWS], "label": [r[1] for r in ROWS]}), path)
    return path


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl", "parquet"])
@pytest.mark.parametrize("end", ["", "\n\n", "\r\n \r\n"])
def test_every_form_gives_the_same_rows(form: str, end: str, tmp_path: Path) -> None:
    path = written(tmp_path, form)
    if form != "parquet":
        path.write_bytes(path.read_bytes() + end.encode())
    table = read_table(path, ("text",), "label")
    assert table.texts == [("A good one.",), ("It's \"not\" so, 'good'.",), ("Ünïcode, too",)]
    assert table.labels == ["yes", "no", "yes"] and table.broken == []


def test_numbers_and_truth_values_are_labels_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": true}\n{"text": "c", "label": 0.5}\n')
    assert read_table(path, ("text",), "label").labels == ["1", "1", "0.5"]


def tsv(folder: Path, content: bytes) -> Path:
    path = folder / "a.tsv"
    path.write_bytes(content)
    return path


def test_a_stray_quote_or_carriage_return_is_text(tmp_path: Path) -> None:
    path = tsv(tmp_path, b'text\tlabel\n"He said\t1\nso" he\rsaid\t0\n')
    assert read_table(path, ("text",), "label") == Table(path, [('"He said',), ('so" he said',)], ["1", "0"])


def test_broken_rows_are_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tsv(tmp_path, b"text\tlabel\na\t1\nb\nc\t1\td\ne\t0\n")
    assert read_table(path, ("text",), "label", skip_broken=True) == Table(path, [("a",), ("e",)], ["1", "0"], [2, 3])
    with pytest.raises(UsageError, match="a.tsv: row 2 has 1 columns instead of 2"):
        read_table(path, ("text",), "label")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"text\tlabel\na\t1\n \t1\n", "row 2 has no text in column text"),
        ("a.tsv", b"text\tlabel\na\t\n", "row 1 has no label in column label"),
        ("a.tsv", b"sentence\tlabel\na\t1\n", "a.tsv: no column text; it has sentence, label"),
        ("a.tsv", b"text\tlabel\ttext\n", "two columns are named text"),
        ("a.tsv", b"text\tlabel\na\t1\n\xff\xfe\t1\n", "a.tsv: not UTF-8 after line"),
        ("a.tsv", b"", "no column text; it has none"),
        ("a.tsv", b"text\tlabel\n", "has no rows"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', "row 2 is not JSON"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n\n{"text": "b", "label": 1}\n', "row 2 is not JSON"),
        ("a.tsv", b"text\tlabel\na\t1\n\nb\t1\n", "row 2 has 1 columns instead of 2"),
        ("a.jsonl", b"[1]\n", "row 1 is not a JSON object"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}\n', "row 2: no column label; it has text"),
        ("a.jsonl", b'{"text": null, "label": 1}\n', "row 1 has no text in column text"),
        ("a.jsonl", rb'{"text": "a \uD83D", "label": 1}', r"row 1 is not JSON \(.*surrogates not allowed"),
        ("a.csv", b'text,label\na,1\nb,"1\nc,0\nd,1\n', "row 2 has wrong quotes .*; close each"),
        ("a.csv", b'text,label\n"a" b,1\n', "row 1 has wrong quotes .*; .* write one within a field twice"),
        ("a.parquet", b"PAR1", "not a Parquet file"),
        ("a.xlsx", b"", "must end with one of .tsv, .csv, .jsonl, .parquet"),
    ],
)
def test_bad_input_is_refused_with_file_row_and_reason(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_table(tmp_path / name, ("text",), "label")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent.tsv: no such file"):
        read_table(tmp_path / "absent.tsv", ("text",), "label")


@given(words=st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=60), share=st.floats(0.05, 0.95))
def test_a_split_loses_no_row_and_keeps_equal_texts_together(words: list[str], share: float) -> None:
    table = Table(Path("a.tsv"), [(word, "x") for word in words], [word.upper() for word in words])
    parts = table.split(share)
    assert all(part.labels == [first.upper() for first, _ in part.texts] for part in parts)
    assert sorted(text for part in parts for text in part.texts) == sorted(table.texts)
    assert not set(parts[0].texts) & set(parts[1].texts)
    again = Table(table.path, table.texts[::-1]).split(share)  # the same rows whatever their order
    assert [sorted(part.texts) for part in again] == [sorted(part.texts) for part in parts]


def test_a_split_has_about_the_share_that_was_asked() -> None:
    table = Table(Path("a.tsv"), [(f"text {i}",) for i in range(4000)])
    assert 340 < len(table.split(0.1)[1]) < 460


def test_a_folder_stands_for_the_parquet_files_in_it(tmp_path: Path) -> None:
    for name, row in zip("ba", ROWS, strict=False):
        pq.write_table(pa.table({"text": [row[0]], "label": [row[1]]}), tmp_path / f"{name}.parquet")
    (tmp_path / "extract.json").touch()
    assert read_table(tmp_path, ("text",), "label").labels == ["no", "yes"]  # in the order of their names
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: its name must end with one of .*, or it must be a folder of the last"):
        read_table(tmp_path / "empty", ("text",))
