"""JSON lines become documents; what is wrong with one is said by its line."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from data_prep.sources import ReadErrors, jsonl, lines
from linformer_fairseq.errors import UsageError


def read(path: Path, problems: ReadErrors, column: str | None = None) -> list[tuple[str, str, str]]:
    """(id, title, text) of all documents of all pieces."""
    found = [d for piece in jsonl.pieces(path) for d in jsonl.documents(piece, problems, column)]
    return [(d.id, d.title, d.text) for d in found]


def write(path: Path, *rows: object) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"id": 7, "title": "T", "text": "One.\nTwo.\r\n\n"},
        {"id": "x", "title": None, "text": None},
        {"body": "caf\u00e9 \U0001f600", "text": ""},
    )
    assert read(path, ReadErrors()) == [("7", "T", "One.\nTwo."), ("x", "", ""), ("a:93", "", "")]
    assert read(path, ReadErrors(skip=True), "body") == [("a:93", "", "caf\u00e9 \U0001f600")]


def test_pieces_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", *({"text": f"Text {n}"} for n in range(500)))
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    whole = read(path, ReadErrors())
    assert [text for _, _, text in whole] == [f"Text {n}" for n in range(500)]
    monkeypatch.setattr(jsonl, "PIECE", 1000)
    assert len(jsonl.pieces(path)) > 5 and len(jsonl.pieces(packed)) == 1
    assert read(path, ReadErrors()) == read(packed, ReadErrors()) == whole


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', "not JSON (Unterminated string"),
        ("[" * 100_000, "not JSON ("),
        ('["text"]', "a JSON list; an object per line is expected"),
        ('{"body": 1, "id": 2}', "has no 'text', only 'body', 'id'; see --text-column"),
        ("{}", "has no 'text', only nothing"),
        ('{"text": 5}', "'text' is not text but int; see --text-column"),
        ('{"text": "a\\u0000b"}', "has a NUL character"),
        ('{"text": "\\ud800"}', "has half a character ('\\ud800')"),
        ('{"text": "", "title": "\\udc00"}', "has half a character"),
    ],
)
def test_a_bad_line_is_named_and_the_others_kept(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "One"}}\n{line}\n\n{{"text": "Three"}}\n')
    with pytest.raises(UsageError) as error:
        read(path, ReadErrors())
    assert f"a.jsonl: line 2 (byte 16): {message}" in str(error.value)
    problems = ReadErrors(skip=True)
    assert [text for _, _, text in read(path, problems)] == ["One", "Three"]
    assert len(problems.skipped) == 1


def test_nested_keys_and_lists(tmp_path: Path) -> None:
    row = {"a": {"b": "One.\u2028Two.\x85Three.\x0c"}, "c": [{"d": ["x", None]}, {"g": 1}, {"d": "y"}], "e.f": "z"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False))
    found = {name: read(path, ReadErrors(), name)[0][2] for name in ("a.b", "c.d", "e.f")}
    assert found == {"a.b": "One. Two. Three.", "c.d": "x\ny", "e.f": "z"}
    with pytest.raises(UsageError, match="has no 'a.x', only 'a.b', 'c', 'e.f'"):
        read(path, ReadErrors(), "a.x")
    with pytest.raises(UsageError, match="has no 'c.x'"):
        read(path, ReadErrors(), "c.x")


@pytest.mark.parametrize("indent", [None, 1])
def test_arrays_and_objects_over_several_lines(tmp_path: Path, indent: int | None) -> None:
    rows = [{"text": f"[{n}], \u4e2d"} for n in range(99)]
    path, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    for content in (json.dumps(rows, indent=indent), "\n".join(json.dumps(row, indent=indent) for row in rows)):
        path.write_text(content)
        packed.write_bytes(gzip.compress(content.encode()))
        found = [text for _, _, text in read(path, ReadErrors())]
        assert found == [row["text"] for row in rows] == [text for _, _, text in read(packed, ReadErrors())]
    path.write_text("[]")
    assert read(path, ReadErrors()) == []


@pytest.mark.parametrize(
    ("broken", "column"),
    [
        ('{{"id": {n},\n "text": "t{n}"}}', "text"),
        ('{{"id": {n}, "text":\n"t{n}"}}', "text"),
        ('{{"id": {n}, "of": {{\n"text": "t{n}"}}}}', "of.text"),
        ('{{"id": {n}, "of": [  \r\n{{"text": "t{n}"}}]}}', "of.text"),
        ('{{"text": "t{n}"\n, "id": {n}}}', "text"),
        ('{{"of": {{"text": "t{n}"}}\n}}', "of.text"),
        ('{{"text"\n: "t{n}"}}', "text"),
        ('{{"text": "t{n}"}} ,', "text"),
    ],
)
def test_objects_may_break_their_lines_anywhere(tmp_path: Path, broken: str, column: str) -> None:
    path = tmp_path / "a.json"
    for between in ("\n", ""):
        path.write_text(between.join(broken.format(n=n) for n in range(9)), newline="")
        assert [text for _, _, text in read(path, ReadErrors(), column)] == [f"t{n}" for n in range(9)]


def test_a_first_line_that_is_cut_off_is_named_and_the_others_kept(tmp_path: Path) -> None:
    path, problems = tmp_path / "a.jsonl", ReadErrors(skip=True)
    for number, first in enumerate(('{"text": "One",', '{"text": "One"', '{"text": "One"} 1', '{"text": "On'), 1):
        path.write_text(first + '\n{"text": "Two"}\n')
        assert [text for _, _, text in read(path, problems)] == ["Two"]
        assert len(problems.skipped) == number


@pytest.mark.parametrize("end", ["", "]}", ', {"text": ', ", 5]"])
def test_a_broken_array_is_named(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"text": "One"}' + end)
    problems = ReadErrors(skip=True)
    assert [text for _, _, text in read(path, problems)] == ["One"]
    assert len(problems.skipped) == 1 and f"{path}: object 2: " in problems.skipped[0]
    with pytest.raises(UsageError, match=rf"^{path}: object 2: .*; repair or remove it, or skip"):
        read(path, ReadErrors())


def test_an_array_of_another_kind_does_not_fill_the_list(tmp_path: Path) -> None:
    path, problems = tmp_path / "a.json", ReadErrors(skip=True)
    path.write_text(json.dumps([{"body": "x"}] * 1000))
    assert read(path, problems) == []
    assert len(problems.skipped) == lines.MOST_REPORTS + 1
    assert problems.skipped[0].startswith(f"{path}: object 1: has no 'text'")
    assert problems.skipped[-1] == f"{path}: {1000 - lines.MOST_REPORTS} more objects could not be read"


def test_an_array_longer_than_a_block_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sources.lines.BLOCK", 50)
    rows = [{"text": os.urandom(n).hex()} for n in range(1, 99)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    assert [text for _, _, text in read(path, ReadErrors())] == [row["text"] for row in rows]
