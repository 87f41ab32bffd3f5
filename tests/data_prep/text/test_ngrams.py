"""Examples are found in documents whatever the case and punctuation, and nothing else is."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.text.benchmarks import benchmark_examples
from data_prep.text.ngrams import NgramIndex
from data_prep.text.words import words
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
    found = index.matches(document)
    assert [match.example for match in found[:1]] == ([expected] if expected else [])
    assert all(words(document[m.start : m.end]).hashes[0] in words(m.example).hashes for m in found)


CHINESE = "清晨的河边有许多人在散步，孩子们数着经过的小船，老磨坊的主人打开窗户向邻居们问好。"
THAI = "เช้าวันหนึ่งที่ริมแม่น้ำมีผู้คนมากมายออกมาเดินเล่น เด็กๆนับเรือที่แล่นผ่านไปมา"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (f"今天读到一段话。{CHINESE}写得很好。", CHINESE),
        ("孩子们数着经过的小船老磨坊的", CHINESE),  # 14 characters
        ("孩子们数着经过的小船", None),  # 10 of a longer example
        (f"เขาเขียนว่า {THAI} จบ", THAI),
        ("ที่ริมแม่น้ำมีผู้คนมาก", None),  # 22 characters, some five words
    ],
)
def test_scripts_without_spaces_have_words_too(document: str, expected: str | None) -> None:
    assert [m.example for m in NgramIndex.build([CHINESE, THAI]).matches(document)][:1] == [expected][: bool(expected)]


FORMS = [  # the same text as two people write it
    unicodedata.normalize("NFD", "Câu nào sau đây giải thích đúng nhất về quá trình quang hợp của thực vật"),
    unicodedata.normalize("NFD", "다음 중 광합성에 대한 설명으로 옳은 것을 모두 골라 번호를 쓰시오"),
    "مَا هِيَ الْعَاصِمَةُ الَّتِي تَقَعُ عَلَى ضِفَافِ النَّهْرِ \u200fفِي الْعَالَمِ",
    "Aşağıdakilerden hangisi ışık ve ısı kaynağı olarak kullandığı şeylerden biridir",
    "なつのあさ、かわのほとりでパンとガムをたべながらほんをよんだ。",
    "The ﬁrst co\u00adoperative in the naïve village was founded by “weavers”",
]
OTHER = [
    unicodedata.normalize("NFC", FORMS[0]),
    unicodedata.normalize("NFC", FORMS[1]),
    "ما هي العاصمة التي تقع على ضفاف النهـر في العالم",
    FORMS[3].upper(),
    "なつのあさ、かわのほとりでﾊﾟﾝとｶﾞﾑをたべながらほんをよんだ。",
    "THE FIRST COOPERATIVE IN THE NAIVE VILLAGE WAS FOUNDED BY 'WEAVERS'",
]


@pytest.mark.parametrize(("example", "other"), [*zip(FORMS, OTHER, strict=True), *zip(OTHER, FORMS, strict=True)])
def test_forms_of_unicode_and_marks_do_not_hide_an_example(example: str, other: str) -> None:
    (match,) = NgramIndex.build([example]).matches(f"İ\u00ad ﬃ. {other}")[:1]
    assert f"İ\u00ad ﬃ. {other}"[match.start :].startswith(other[:3])


def test_places_are_those_of_the_text_as_it_is_written(index: NgramIndex) -> None:
    document = f"Straße ﬁn ŉ. {SHORT} Ende"  # casefolding makes these longer
    match = index.matches(document)[0]
    assert document[match.start : match.end] == SHORT.rstrip(".")


def test_short_examples_with_the_same_beginning_are_told_apart() -> None:
    start = "one two three four five six seven eight"
    index = NgramIndex.build([f"{start} nine", f"{start} ten", start + " nine ten"])
    for words_after, expected in (("nine ten eleven", [f"{start} nine"]), ("ten eleven", [f"{start} ten"]), ("x", [])):
        assert [match.example for match in index.matches(f"zero {start} {words_after}")] == expected


def test_equal_hashes_are_not_enough(index: NgramIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    import data_prep.text.ngrams as module

    def collide(hashes: np.ndarray, n: int) -> np.ndarray:
        return np.zeros(max(0, len(hashes) - n + 1), np.uint64)

    monkeypatch.setattr(module, "ngram_hashes", collide)
    colliding = NgramIndex.build([LONG])
    assert not colliding.matches("other words " * 20)
    assert colliding.matches(LONG)[0].example == LONG


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
    assert not NgramIndex.build([]).matches(LONG)


def test_examples_of_a_folder(tmp_path: Path) -> None:
    seven = "one two three four five six seven"
    quirks = f'\ufeffQuality\t#1 String\n1\t"{seven} a\n0\t{seven} b "quoted"\tshort\n'
    for name in ("MRPC/test.tsv", "MRPC/train.tsv", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(quirks, encoding="utf-8")
    (tmp_path / "dev-0.csv").write_text(f'text,label\n"{seven}, c\n",1\n', encoding="utf-8")
    rows = [{"text": f"{seven} d", "answers": [{"text": f"{seven} e"}], "tokens": [*seven.split(), "t"]}]
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    pq.write_table(pa.table({"text": [f"{seven} f"], "n": [3]}), tmp_path / "test-00000-of-00001.parquet")
    squad = {"data": [{"paragraphs": [{"context": f"{seven} g", "qas": [{"question": f"{seven} h", "id": "1"}]}]}]}
    (tmp_path / "t").mkdir()
    (tmp_path / "t/dev-v1.1.json").write_text(json.dumps(squad, indent=1))
    (tmp_path / "t/test2.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    (tmp_path / "t/test3.txt").write_text(f"{seven} i\nshort\n{CHINESE}\n")
    assert list(benchmark_examples(tmp_path)) == [
        f'"{seven} a',
        f'{seven} b "quoted"',
        f"{seven}, c\n",
        f"{seven} g",
        f"{seven} h",
        f"{seven} d",
        f"{seven} e",
        f"{seven} t",
        f"{seven} i",
        CHINESE,
        f"{seven} f",
        f"{seven} d",
        f"{seven} e",
        f"{seven} t",
    ]


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("dev.tsv", b"good\n\xff\n", "dev.tsv:2"),
        ("test.jsonl", b'{"a": "b"}\n{"a"', "test.jsonl:2"),
        ("test.parquet", b"PAR1", "test.parquet"),
        ("test.csv", b"\xff", "test.csv"),
        ("dev.json", b"[1, 2", "dev.json:1"),
        ("test.txt.gz", b"\x1f\x8b cut", "test.txt.gz"),
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
