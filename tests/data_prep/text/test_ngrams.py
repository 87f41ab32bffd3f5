"""Examples are found in documents whatever the case and punctuation, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.text.benchmarks import benchmark_examples
from data_prep.text.ngrams import NgramIndex
from linformer_fairseq.errors import UsageError

LONG = "A sentence of the test set that is longer than thirteen words, so that any part of it counts."
SHORT = "Just nine words in this short example of ours."
TINY = "Only seven words stand in this one."


@pytest.fixture
def index() -> NgramIndex:
    return NgramIndex.build([TINY, LONG, SHORT])


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (f"Before it. {LONG} Behind it.", LONG),
        ("sentence OF the test-set, that is longer (than) thirteen words so that any", LONG),
        (f"Before it. {SHORT.upper()} Behind it.", SHORT),
        (SHORT, SHORT),
        ("of the test set that is longer than thirteen words so that", None),  # twelve words of a longer example
        ("Just nine words in this short example of", None),  # eight of nine
        (TINY, None),
        ("", None),
    ],
)
def test_matches(index: NgramIndex, document: str, expected: str | None) -> None:
    assert index.matches(document) == expected


def test_short_examples_with_the_same_beginning_are_told_apart() -> None:
    start = "one two three four five six seven eight"
    index = NgramIndex.build([f"{start} nine", f"{start} ten", start + " nine ten"])
    assert index.matches(f"zero {start} nine ten eleven") == f"{start} nine"
    assert index.matches(f"zero {start} ten eleven") == f"{start} ten"
    assert index.matches(f"{start} eleven") is None


def test_equal_hashes_are_not_enough(index: NgramIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    import data_prep.text.ngrams as module

    def collide(hashes: np.ndarray, n: int) -> np.ndarray:
        return np.zeros(max(0, len(hashes) - n + 1), np.uint64)

    monkeypatch.setattr(module, "ngram_hashes", collide)
    colliding = NgramIndex.build([LONG])
    assert colliding.matches("other words " * 20) is None
    assert colliding.matches(LONG) == LONG


def test_saved_index_finds_the_same_and_has_the_same_bytes(index: NgramIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "a.npz")
    NgramIndex.load(tmp_path / "a.npz").save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    for text in (LONG, SHORT, TINY):
        assert NgramIndex.load(tmp_path / "b.npz").matches(text) == index.matches(text)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_other_files_are_no_index(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.npz").write_bytes(content)
    with pytest.raises(UsageError, match="index.npz: not an index"):
        NgramIndex.load(tmp_path / "index.npz")


def test_no_examples_find_nothing() -> None:
    assert NgramIndex.build([]).matches(LONG) is None


def test_examples_of_a_folder(tmp_path: Path) -> None:
    words = "one two three four five six seven"
    quirks = f'\ufeffQuality\t#1 String\n1\t"{words} a\n0\t{words} b "quoted"\tshort\n'
    for name in ("MRPC/test.tsv", "MRPC/train.tsv", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(quirks, encoding="utf-8")
    (tmp_path / "dev-0.csv").write_text(f'text,label\n"{words}, c\n",1\n', encoding="utf-8")
    rows = [{"text": f"{words} d", "answers": [{"text": f"{words} e"}], "label": 1}]
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    pq.write_table(pa.table({"text": [f"{words} f"], "n": [3]}), tmp_path / "test-00000-of-00001.parquet")
    assert list(benchmark_examples(tmp_path)) == [
        f'"{words} a',
        f'{words} b "quoted"',
        f"{words}, c\n",
        f"{words} f",
        f"{words} d",
        f"{words} e",
    ]


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("dev.tsv", b"good\n\xff\n", "dev.tsv:2"),
        ("test.jsonl", b'{"a": "b"}\n{"a"', "test.jsonl:2"),
        ("test.parquet", b"PAR1", "test.parquet"),
        ("test.csv", b"\xff", "test.csv"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, where: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"{where}.*cannot be read .*; repair or remove the file"):
        list(benchmark_examples(tmp_path))


def test_a_folder_without_benchmark_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("text\n")
    with pytest.raises(UsageError, match="no dev or test files"):
        list(benchmark_examples(tmp_path))
