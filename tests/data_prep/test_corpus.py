"""Parquet files of documents."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.corpus import Document, corpus_files, read_file, tidy, write_file, write_files
from linformer_fairseq.errors import UsageError

DOCUMENTS = [Document(str(n), "text", f"Title {n}", f"Text {n} " * n) for n in range(1, 9)]


def test_documents_come_back_from_several_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.corpus.ROW_GROUP_CHARACTERS", 50)
    path = tmp_path / "a.parquet"
    counts = write_file(DOCUMENTS, path)
    assert pq.read_metadata(path).num_row_groups > 2
    assert list(read_file(path)) == DOCUMENTS
    assert counts == {"documents": 8, "characters": sum(len(d.text) for d in DOCUMENTS)}


@pytest.mark.parametrize("characters", [1, 40, 100, 10_000])
def test_files_are_cut_at_their_size_and_lose_nothing(tmp_path: Path, characters: int) -> None:
    counts, paths = write_files(DOCUMENTS, tmp_path, "x", characters)
    assert corpus_files(tmp_path) == paths
    assert [document for path in paths for document in read_file(path)] == DOCUMENTS
    assert counts["documents"] == 8
    assert all(sum(len(d.text) for d in list(read_file(path))[:-1]) < characters for path in paths)


def test_no_documents_make_no_files_but_an_empty_file_where_one_is_due(tmp_path: Path) -> None:
    assert write_files([], tmp_path, "x", 10) == ({"documents": 0, "characters": 0}, [])
    write_file([], tmp_path / "a.parquet")
    assert list(read_file(tmp_path / "a.parquet")) == []


@given(st.lists(st.text()))
def test_tidy_is_idempotent_and_has_no_empty_paragraphs(lines: list[str]) -> None:
    text = tidy(lines)
    assert tidy(text.split("\n")) == text
    assert text == "" or all(line and line == line.strip() for line in text.split("\n"))


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no .parquet files here"):
        corpus_files(tmp_path)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet: no column id, sha256, source, title.*--source parquet"):
        corpus_files(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UsageError, match=r"a\.parquet: not a Parquet file"):
        corpus_files(tmp_path)


def test_no_flipped_bit_is_silently_another_text(tmp_path: Path) -> None:
    """Of the pages, which have checksums, and of what describes them; elsewhere it changes nothing."""
    path = tmp_path / "a.parquet"
    chance = random.Random(1)
    texts = [" ".join(chance.choices("the river garden child book".split(), k=80)) for _ in range(40)]
    documents = [Document(f"{number}", "text", "title", text) for number, text in enumerate(texts)]
    write_file(documents, path)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 11):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :])
        try:
            assert list(read_file(path)) == documents, place
        except UsageError as error:
            assert "add --verify to the command that wrote it" in str(error)
            refused += 1
    assert refused > len(content) // 11 // 2
