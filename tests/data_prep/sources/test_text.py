"""Text files become documents line by line; long ones become several."""

from __future__ import annotations

import bz2
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep.sources import ReadErrors, text
from data_prep.sources.files import STDIN
from linformer_fairseq.errors import UsageError


def read(path: Path, problems: ReadErrors, **settings: str) -> list[tuple[str, str, str]]:
    """(id, title, text) of all documents of all pieces."""
    pieces = text.pieces(path, **settings)
    found = [document for piece in pieces for document in text.documents(piece, problems, **settings)]
    assert all(document.source == "text" for document in found)
    return [(document.id, document.title, document.text) for document in found]


def test_every_line_is_a_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "my_notes.md"
    path.write_bytes(b"\xef\xbb\xbfOne  paragraph.\r\nAnother\tone.\r\n\r\nOld\rMac\n")
    assert read(path, ReadErrors()) == [("my_notes", "my notes", "One paragraph.\nAnother one.\nOld\nMac")]


def test_a_bad_line_is_left_out_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"One.\ncaf\xe9\nThree.\n")
    with pytest.raises(UsageError, match=r"a\.txt: line 2 \(byte 5\): not UTF-8 at byte 4"):
        read(path, ReadErrors())
    assert read(path, ReadErrors(skip=True)) == [("a", "a", "One.\nThree.")]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("file", [("a", "One.\nTwo.\nThree. more\nFour.")]),
        ("blank", [("a:0", "One.\nTwo."), ("a:12", "Three. more"), ("a:26", "Four.")]),
        ("line", [("a:0", "One."), ("a:5", "Two."), ("a:12", "Three. more"), ("a:26", "Four.")]),
    ],
)
def test_documents_end_as_the_setting_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, expected: list[tuple[str, str]]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One.\nTwo.\n \nThree.\x0cmore\n\n\nFour.")
    assert [found[::2] for found in read(path, ReadErrors(), document_end=end)] == expected
    path.write_text("".join(f"{n}\n{n}\n\n" for n in range(500)))
    whole = read(path, ReadErrors(), document_end=end)
    if end != "file":
        monkeypatch.setattr(text, "PART", 100)
        assert len(text.pieces(path, document_end=end)) > 10 and read(path, ReadErrors(), document_end=end) == whole


def test_an_empty_file_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.touch()
    problems = ReadErrors()
    assert read(path, problems) == [] and problems.left_out == {"empty files": 1}
    path.write_text(" \n")
    assert read(path, ReadErrors()) == [("a", "a", "")]


def test_a_long_file_becomes_several_documents_packed_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PART", 1000)
    lines = [f"Paragraph {n}." for n in range(500)]
    plain, packed = tmp_path / "a.txt", tmp_path / "a.txt.bz2"
    plain.write_text("\n".join(lines))
    packed.write_bytes(bz2.compress(plain.read_bytes()))
    found = read(plain, ReadErrors())
    assert len(text.pieces(plain)) == len(found) == 8 and len(text.pieces(packed)) == 1
    assert [id for id, _, _ in found] == ["a", *(f"a#{n}" for n in range(2, 9))]
    assert "\n".join(text for _, _, text in found).split("\n") == lines
    assert read(packed, ReadErrors()) == found


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BufferedReader(io.BytesIO(b"One.\nTwo.\n"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=buffer))
    assert read(STDIN, ReadErrors()) == [("stdin", "stdin", "One.\nTwo.")]


def test_a_file_that_has_gone_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    piece = text.pieces(path)[0]
    path.unlink()
    with pytest.raises(UsageError, match=r"a\.txt: cannot be read to its end \(.*No such file"):
        list(text.documents(piece, ReadErrors()))
