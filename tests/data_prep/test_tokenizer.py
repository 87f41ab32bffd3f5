"""The sentencepiece model and fairseq's dictionary of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fairseq.data.dictionary import Dictionary

from data_prep.__main__ import main
from data_prep.corpus import row_groups
from data_prep.stage import DataPrepError
from data_prep.tokenizer import (
    FAIRSEQ_OFFSET,
    MODEL_NAME,
    VOCAB_MULTIPLE,
    load_tokenizer,
    sample_paragraphs,
    train_tokenizer,
)


def test_dictionary_is_as_large_as_asked_with_the_mask(tokenizer: Path) -> None:
    dictionary = Dictionary.load(str(tokenizer / "dict.txt"))
    dictionary.add_symbol("<mask>")  # as the task masked_lm does
    assert len(dictionary) == 512 and len(dictionary) % VOCAB_MULTIPLE == 0


def test_fairseq_numbers_the_pieces_as_the_model_does(tokenizer: Path) -> None:
    processor = load_tokenizer(tokenizer)
    dictionary = Dictionary.load(str(tokenizer / "dict.txt"))
    for piece in range(1, len(processor)):
        assert dictionary.index(processor.id_to_piece(piece)) == piece + FAIRSEQ_OFFSET
    assert dictionary.unk() == processor.unk_id() + FAIRSEQ_OFFSET


def test_dictionary_counts_are_those_of_the_sample(corpus: Path, tokenizer: Path) -> None:
    dictionary = Dictionary.load(str(tokenizer / "dict.txt"))
    sample = sample_paragraphs(row_groups(corpus))
    tokens = sum(len(ids) for ids in load_tokenizer(tokenizer).encode(sample))
    assert sum(dictionary.count[dictionary.nspecial :]) == tokens


@pytest.mark.parametrize(
    "text", ["A plain sentence.", "naïve 日本語 🙂 ‱", "x = {'a': [1, 2]}  # ▁ ½ ﬁ", "<mask> </s>"]
)
def test_every_text_comes_back(tokenizer: Path, text: str) -> None:
    processor = load_tokenizer(tokenizer)
    ids = processor.encode(" ".join(text.split()))
    assert processor.unk_id() not in ids
    assert processor.decode(ids) == " ".join(text.split()).replace("▁", " ")


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_training_again_gives_the_same_files(corpus: Path, tmp_path: Path, model: str) -> None:
    for name in ("a", "b"):
        train_tokenizer(corpus, tmp_path / name, 384, model)
    for name in (MODEL_NAME, "dict.txt", "sentencepiece.vocab", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_sample_is_smaller_where_asked_and_part_of_the_corpus(corpus: Path) -> None:
    groups = row_groups(corpus)
    whole, small = sample_paragraphs(groups), sample_paragraphs(groups, 20_000)
    assert set(small) < set(whole)
    assert 10_000 < sum(map(len, small)) < 40_000


def test_a_second_run_does_nothing(corpus: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in tokenizer.iterdir()}
    assert main(["tokenizer", str(corpus), "--out", str(tokenizer), "--vocab-size", "512"]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in tokenizer.iterdir()} == before
    assert "already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (500, "--vocab-size 500: must be a multiple of 64, for example 512"),
        (0, "--vocab-size 0: must be at least 320"),
        (64, "--vocab-size 64: must be at least 320"),
        (64_000, "--vocab-size 64000 does not suit this corpus"),
    ],
)
def test_sizes_that_cannot_be_are_refused(corpus: Path, tmp_path: Path, size: int, message: str) -> None:
    with pytest.raises(DataPrepError) as error:
        train_tokenizer(corpus, tmp_path / "tokenizer", size)
    assert str(error.value).startswith(message)


def test_other_settings_into_the_same_folder_are_refused(corpus: Path, tokenizer: Path) -> None:
    with pytest.raises(DataPrepError, match=r"other settings \(vocab_size changed.* choose another --out"):
        train_tokenizer(corpus, tokenizer, 576)


def test_a_corpus_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataPrepError, match="no .parquet files here; make them with `python -m data_prep extract`"):
        train_tokenizer(tmp_path, tmp_path / "tokenizer", 512)


def test_a_dictionary_of_another_model_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tokenizer, tmp_path / "mixed")
    lines = (folder / "dict.txt").read_text().splitlines(keepends=True)
    (folder / "dict.txt").write_text("".join(reversed(lines)))
    with pytest.raises(DataPrepError, match=r"dict\.txt: does not list the pieces of sentencepiece\.model"):
        load_tokenizer(folder)
    (folder / MODEL_NAME).unlink()
    with pytest.raises(DataPrepError, match=r"sentencepiece\.model: missing; make it with"):
        load_tokenizer(folder)
