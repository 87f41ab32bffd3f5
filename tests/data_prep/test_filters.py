"""clean, decontaminate, dedup and split as stages: what stays, what goes and why."""

from __future__ import annotations

import os
import random
import resource
from pathlib import Path

import pytest

from data_prep.clean import clean
from data_prep.config import DecontaminateConfig, SplitConfig
from data_prep.corpus import Document, corpus_files, read_file, write_file
from data_prep.decontaminate import decontaminate
from data_prep.dedup import dedup
from data_prep.inspect import inspect
from data_prep.split import split, split_of
from data_prep.text.minhash import NearDuplicates
from data_prep.text.rules import CleanConfig
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.documents import find_files


def prose(n: int, sentences: int = 12) -> str:
    """Some sentences of made-up words, others for each `n`."""
    chance = random.Random(n)
    words = ["".join(chance.choices("aeioulmnrst", k=chance.randint(3, 8))) for _ in range(10 * sentences)]
    return "\n".join(" ".join(words[i : i + 10]) + "." for i in range(0, len(words), 10))


def corpus_of(folder: Path, texts: list[list[str]]) -> Path:
    """A corpus with one file per list."""
    for number, file in enumerate(texts):
        documents = [Document(f"{number}.{i}", "test", f"T{i}", text) for i, text in enumerate(file)]
        write_file(documents, folder / f"test-{number:05d}.parquet")
    return folder


def ids(folder: Path) -> list[str]:
    """Ids of all documents of a corpus."""
    return [document.id for path in corpus_files(folder) for document in read_file(path)]


def test_clean_drops_with_a_reason_and_names_examples(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", [[prose(1), "Short."], [prose(2), "# … # … # … " * 50]])
    result = clean(corpus, tmp_path / "clean", CleanConfig())["result"]
    assert ids(tmp_path / "clean") == ["0.0", "1.0"]
    assert sum(result["dropped"].values()) == 2 and result["dropped"]["too few characters"] == 1
    assert result["examples"]["too few characters"] == ["test 0.1 T1"]
    assert find_files([tmp_path / "clean"]) == tuple(corpus_files(tmp_path / "clean"))  # what was dropped is no part


def test_a_stage_that_drops_everything_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="drops all documents.*too few characters"):
        clean(corpus_of(tmp_path / "corpus", [["Short."]]), tmp_path / "clean", CleanConfig())


def test_duplicates_are_found_across_files_and_the_first_stays(tmp_path: Path) -> None:
    near = prose(3, 40)
    corpus = corpus_of(
        tmp_path / "corpus", [[prose(1), near, prose(2)], [prose(4), prose(1)], [], [near.replace(" ", " changed ", 1)]]
    )
    result = dedup(corpus, tmp_path / "dedup", NearDuplicates(), workers=2)["result"]
    assert ids(tmp_path / "dedup") == ["0.0", "0.1", "0.2", "1.0"]
    assert result["dropped"] == {"exact duplicate": 1, "near duplicate": 1}
    before = (tmp_path / "dedup/dedup.json").read_bytes()
    dedup(corpus, tmp_path / "dedup", NearDuplicates())
    assert (tmp_path / "dedup/dedup.json").read_bytes() == before


def test_pages_with_a_text_of_their_own_stay_and_copies_of_it_go(tmp_path: Path) -> None:
    frame = prose(1, 200)
    pages = [f"{frame}\n{prose(n, 15)}" for n in range(2, 12)]
    copy = pages[3].replace(" ", "  ", 1) + " Once more."
    corpus = corpus_of(tmp_path / "corpus", [pages, [copy, pages[5]]])
    result = dedup(corpus, tmp_path / "dedup", NearDuplicates(), 0)["result"]
    assert ids(tmp_path / "dedup") == [f"0.{n}" for n in range(10)]
    assert result["dropped"] == {"near duplicate": 1, "exact duplicate": 1}
    assert len(ids_of(corpus, tmp_path / "off", NearDuplicates(own_words=0))) == 1


def ids_of(corpus: Path, out: Path, config: NearDuplicates) -> list[str]:
    """Ids of the documents that dedup keeps."""
    dedup(corpus, out, config, 0)
    return ids(out)


def test_a_corpus_of_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", [[prose(n, 2)] for n in range(60)])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 30, before[1]))
    try:
        assert len(ids_of(corpus, tmp_path / "out", NearDuplicates(repeated_paragraphs=9))) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_paragraph_in_many_documents_is_removed_if_asked_for(tmp_path: Path) -> None:
    texts = [f"{prose(n, 5)}\nAll rights reserved." for n in range(8)]
    corpus = corpus_of(tmp_path / "corpus", [texts[:3], [*texts[3:], "All rights reserved."]])
    assert len(ids_of(corpus, tmp_path / "eight", NearDuplicates(repeated_paragraphs=9))) == 9
    result = dedup(corpus, tmp_path / "out", NearDuplicates(repeated_paragraphs=8), 0)["result"]
    assert result["removed"] == {"repeated paragraphs": 8} and result["dropped"] == {"repeated paragraphs": 1}
    found = [d.text for path in corpus_files(tmp_path / "out") for d in read_file(path)]
    assert found == [prose(n, 5) for n in range(8)]


def test_inspect_says_why_a_document_was_dropped_and_beside_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = corpus_of(tmp_path / "corpus", [[prose(1), "Short."], [prose(2), prose(1)]])
    clean(corpus, tmp_path / "clean", CleanConfig(), 0)
    dedup(tmp_path / "clean", tmp_path / "dedup", NearDuplicates(), 0)
    capsys.readouterr()
    for document, said in (
        ("0.1", ["clean has dropped 0.1: too few characters", "Short."]),
        ("1.1", ["dedup has dropped 1.1: exact duplicate", "beside test-00000.parquet:0 [test 0.0] T0", prose(1)[:40]]),
        ("1.0", [f"1.0 is kept in {tmp_path}/dedup/test-00001.parquet"]),
    ):
        inspect(tmp_path, 1, 1, document)
        printed = capsys.readouterr().out
        assert all(part in printed for part in said)
    inspect(tmp_path / "dedup", 1, 1, "1.1")
    assert "beside test-00000.parquet:0; the folder of the run" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--document 9: neither kept nor dropped"):
        inspect(tmp_path, 1, 1, "9")


def test_documents_with_examples_of_a_benchmark_are_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = "nobody had told the old gardener that the orchard behind the chapel would be sold by the end of summer"
    glue = tmp_path / "glue/RTE"
    glue.mkdir(parents=True)
    (glue / "dev.tsv").write_text(f"index\tsentence1\tsentence2\tlabel\n0\t{example}\tYes.\tentailment\n")
    (glue / "train.tsv").write_text(f"index\tsentence1\n0\t{prose(2).splitlines()[0]}\n")
    corpus = corpus_of(tmp_path / "corpus", [[prose(1), f"{prose(3, 2)}\n{example.capitalize()}!"], [prose(2)]])
    result = decontaminate(corpus, tmp_path / "out", DecontaminateConfig([str(tmp_path / "glue")]))["result"]
    assert ids(tmp_path / "out") == ["0.0", "1.0"]
    assert result["dropped"] == {"benchmark example": 1} and result["unread"] == []
    for name in ("test.xlsx", "questions.tsv", "README.txt", "train.json"):
        (glue / name).touch()
    again = decontaminate(corpus, tmp_path / "again", DecontaminateConfig([str(tmp_path / "glue")]))["result"]
    assert again["unread"] == [f"{glue}/questions.tsv", f"{glue}/test.xlsx"]
    assert f"{glue}/test.xlsx is not read" in capsys.readouterr().out
    with pytest.raises(UsageError, match="absent: no such folder"):
        decontaminate(corpus, tmp_path / "other", DecontaminateConfig(["absent"]))


def test_a_book_loses_a_window_around_an_example_and_not_itself(tmp_path: Path) -> None:
    example = "four score and seven years ago our fathers brought forth on this continent a new nation"
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue/dev.txt").write_text(f"He said: {example}.\n")
    book = f"{prose(1, 50)}\nHe recited: {example.upper()}, conceived in liberty.\n{prose(2, 50)}"
    quoting = "\n".join(f"{prose(n, 20)} {example}" for n in range(3, 14))  # twelve parts
    corpus = corpus_of(tmp_path / "corpus", [[book, quoting, f"{prose(15, 2)} {example}"]])
    config = DecontaminateConfig([str(tmp_path / "glue")])
    result = decontaminate(corpus, tmp_path / "out", config)["result"]
    assert ids(tmp_path / "out") == ["0.0"] and result["dropped"] == {"benchmark example": 2}
    assert result["removed"] == {"window around a benchmark example": 1}
    (kept,) = [d.text for path in corpus_files(tmp_path / "out") for d in read_file(path)]
    lost = len(book) - len(kept)
    assert 400 + len(example) <= lost < 500 + len(example) and example not in kept.lower()
    assert set(kept.split()) <= set(book.split())  # no word is cut
    config.remove = "document"
    with pytest.raises(UsageError, match="drops all documents"):
        decontaminate(corpus, tmp_path / "other", config)


def test_the_split_is_stable_when_the_corpus_grows(tmp_path: Path) -> None:
    texts = [prose(n, 2) for n in range(200)]
    config = SplitConfig(valid=0.2, test=0.1)
    result = split(corpus_of(tmp_path / "small", [texts[:100]]), tmp_path / "a", config)["result"]
    split(corpus_of(tmp_path / "large", [texts[100:], texts[:100]]), tmp_path / "b", config, workers=2)
    for name in ("train", "valid", "test"):
        small, large = ({d.text for p in corpus_files(tmp_path / x / name) for d in read_file(p)} for x in "ab")
        assert small and small == large & set(texts[:100])
        assert result[f"{name}_documents"] == len(small)
    assert 0.1 < result["valid_documents"] / 100 < 0.3


def test_shares_add_up_and_are_checked(tmp_path: Path) -> None:
    assert split_of("0" * 64, 0, 0) == "train" and split_of("7" + "0" * 63, 0.5, 0.5) == "valid"
    corpus = corpus_of(tmp_path / "corpus", [[prose(1)]])
    for shares, message in (
        ((1.5, 0.0), "--valid 1.5: must be at least 0"),
        ((1.0, 0.0), "--valid 1.0"),
        ((0.5, 0.5), "nothing to train on"),
        ((1e-9, 0.0), "none is in valid"),
    ):
        with pytest.raises(UsageError, match=message):
            split(corpus, tmp_path / "out", SplitConfig(*shares))


def test_a_stage_does_not_write_into_its_input(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", [[prose(1)]])
    with pytest.raises(UsageError, match="is the corpus itself"):
        clean(corpus, corpus, CleanConfig())
