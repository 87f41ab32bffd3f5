"""Binarised text, read back with fairseq's own classes."""

from __future__ import annotations

import random
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data import TokenBlockDataset, data_utils
from fairseq.data.dictionary import Dictionary
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE

from data_prep import encoders
from data_prep.__main__ import main
from data_prep.binarize import binarize, data_folders
from data_prep.config import BinarizeConfig, TokenizerConfig
from data_prep.corpus import Document, corpus_files, read_file, write_file
from data_prep.fairseq_dict import dictionary_text
from data_prep.split import SPLITS
from data_prep.tokenizer import make_tokenizer
from linformer_fairseq.io.records import WORK

LONGEST = 62  # tokens of an item, for samples of 64
EOS = 2
FILES = [f"{split}.{suffix}" for split in SPLITS for suffix in ("bin", "idx")] + ["dict.txt", "sentencepiece.model"]


@pytest.fixture(scope="module")
def data(splits: Path, tokenizer: Path) -> Path:
    """The corpus, binarised by one process."""
    folder = splits.with_name("data")
    binarize(splits, tokenizer, folder, BinarizeConfig(LONGEST))
    return folder


def items_of(data: Path, split: str) -> list[torch.Tensor]:
    """The items as fairseq reads them."""
    dataset = data_utils.load_indexed_dataset(str(data / split), None, None)
    return [dataset[i] for i in range(len(dataset))]


def texts_of(splits: Path, split: str) -> list[str]:
    """The documents of a split, straight from the corpus."""
    return [document.text for path in corpus_files(splits / split) for document in read_file(path)]


def decoded(data: Path, items: list[torch.Tensor]) -> list[str]:
    """The documents in a stream of items."""
    encoder = encoders.load(data)
    documents: list[str] = []
    paragraphs: list[str] = []
    ids: list[int] = []
    for item in items:
        if item.tolist() == [EOS]:
            documents.append("\n".join(paragraphs))
            paragraphs = []
            continue
        ids += item.tolist()
        if ids[-1] == EOS:
            paragraphs.append(encoder.decode(ids[:-1]))
            ids = []
    assert not ids and not paragraphs
    return documents


@pytest.mark.parametrize("split", SPLITS)
def test_decoding_gives_the_corpus_back(splits: Path, data: Path, split: str) -> None:
    documents = decoded(data, items_of(data, split))
    assert documents == texts_of(splits, split) and documents


def test_ids_are_those_of_fairseqs_own_bpe(splits: Path, data: Path) -> None:
    dictionary = Dictionary.load(str(data / "dict.txt"))
    model = str(data / "sentencepiece.model")
    bpe = SentencepieceBPE(
        Namespace(sentencepiece_model=model, sentencepiece_enable_sampling=False, sentencepiece_alpha=None)
    )
    expected: list[int] = []
    for text in texts_of(splits, "valid"):
        for paragraph in text.split("\n"):
            line = bpe.encode(paragraph)
            expected += dictionary.encode_line(line, append_eos=True, add_if_not_exist=False).tolist()
        expected.append(EOS)
    assert torch.cat(items_of(data, "valid")).tolist() == expected


@pytest.mark.parametrize("mode", ["none", "complete", "complete_doc"])
def test_every_break_mode_of_fairseq_takes_the_data(data: Path, mode: str) -> None:
    dataset = data_utils.load_indexed_dataset(str(data / "train"), None, None)
    blocks = TokenBlockDataset(dataset, dataset.sizes, LONGEST + 2, pad=1, eos=EOS, break_mode=mode, document_sep_len=1)
    assert max(blocks.sizes) <= LONGEST + 2
    total = int(np.sum(dataset.sizes))
    ends = int(np.sum(dataset.sizes == 1))
    assert int(np.sum(blocks.sizes)) == (total - ends if mode == "complete_doc" else total)


def test_items_are_short_enough_and_small(data: Path) -> None:
    dataset = data_utils.load_indexed_dataset(str(data / "train"), None, None)
    assert max(dataset.sizes) == LONGEST and dataset[0].dtype == torch.int64
    assert (data / "train.bin").stat().st_size == 2 * int(np.sum(dataset.sizes))


def test_paragraphs_without_spaces_are_cut_where_sentences_end(tmp_path: Path) -> None:
    chance = random.Random(7)
    words = [
        "".join(chance.choices("清晨河边有许多人在散步孩子们数着经过小船", k=chance.randint(1, 4))) for _ in range(300)
    ]
    hindi = ["नदी के किनारे बहुत से लोग टहल रहे थे।", "बच्चे गुज़रती हुई नावें गिन रहे थे।"]
    texts = []
    for number in range(40):
        rare = chr(0x4E00 + chance.randrange(3000))  # becomes bytes
        sentences = ["".join(chance.choices(words, k=9)) + rare + "。" for _ in range(30)]
        texts.append("".join(sentences) if number % 4 else "".join(chance.choices(hindi, k=30)))
    write_file([Document(str(i), "t", "", text) for i, text in enumerate(texts)], tmp_path / "split/train/a.parquet")
    make_tokenizer(tmp_path / "split/train", tmp_path / "tokenizer", TokenizerConfig(512, character_coverage=0.98))
    binarize(tmp_path / "split", tmp_path / "tokenizer", tmp_path / "data", BinarizeConfig(LONGEST), 0)
    items = items_of(tmp_path / "data", "train")
    encoder = encoders.load(tmp_path / "data")
    pieces = [encoder.decode(item.tolist()) for item in items if len(item) > 1]
    assert len(pieces) > 200 and all(piece.endswith(("。", "।")) for piece in pieces)
    assert "".join(pieces) == "".join(texts)


def test_bytes_do_not_depend_on_the_number_of_processes(
    splits: Path, data: Path, tokenizer: Path, tmp_path: Path
) -> None:
    binarize(splits, tokenizer, tmp_path, BinarizeConfig(LONGEST), workers=3)
    assert all((tmp_path / name).read_bytes() == (data / name).read_bytes() for name in FILES)
    assert not (tmp_path / WORK / "parts").exists()


def test_shards_share_the_documents(splits: Path, data: Path, tokenizer: Path, tmp_path: Path) -> None:
    binarize(splits, tokenizer, tmp_path, BinarizeConfig(LONGEST, shards=2))
    folders = data_folders(tmp_path, 2)
    assert [folder.name for folder in folders] == ["shard00", "shard01"]
    shares = [decoded(folder, items_of(folder, "train")) for folder in folders]
    assert all(shares) and sorted(shares[0] + shares[1]) == sorted(texts_of(splits, "train"))
    assert decoded(folders[0], items_of(folders[0], "valid")) == texts_of(splits, "valid")


def test_the_tokenizer_of_a_converted_model_comes_along(splits: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *"abcdefghij", "the"])}
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    (tmp_path / "given/huggingface").mkdir(parents=True)
    tokenizers.Tokenizer(model).save(str(tmp_path / "given/huggingface/tokenizer.json"))
    names = [str(i) for i in range(len(special), len(vocabulary))]
    (tmp_path / "given/dict.txt").write_text(dictionary_text(names, [1] * len(names)))
    make_tokenizer(None, tmp_path / "tokenizer", TokenizerConfig(existing=str(tmp_path / "given")))
    binarize(splits, tmp_path / "tokenizer", tmp_path / "data", BinarizeConfig(LONGEST), 0)
    for name in encoders.load(tmp_path / "data").files:
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "given" / name).read_bytes()


def test_the_record_counts(splits: Path, data: Path, tokenizer: Path) -> None:
    result = binarize(splits, tokenizer, data, BinarizeConfig(LONGEST))["result"]
    for split in SPLITS:
        items = items_of(data, split)
        assert result[f"{split}_documents"] == len(texts_of(splits, split))
        assert (result[f"{split}_items"], result[f"{split}_tokens"]) == (len(items), sum(map(len, items)))
    assert sum(result["lengths"]) == sum(result[f"{split}_documents"] for split in SPLITS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-item-tokens", "3"], "--max-item-tokens 3: must be at least 4"),
        (["--shards", "0"], "--shards 0: must be at least 1"),
        (["--shards", "9999"], "--shards 9999: the corpus has only"),
    ],
)
def test_wrong_use_is_one_sentence(
    arguments: list[str],
    message: str,
    splits: Path,
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = ["binarize", str(splits), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "out")]
    assert main([*base, *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_corpus_that_is_not_split_is_refused(
    corpus: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["binarize", str(corpus), "--tokenizer", str(tokenizer), "--out", str(tmp_path)]) == 1
    assert "no folder train here; make it with `python -m data_prep split`" in capsys.readouterr().err
