"""Ids of the fast tokenizer beside those that data_prep gives for training."""

from __future__ import annotations

import inspect
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from data_prep import encoders
from data_prep.fairseq_dict import SPECIALS
from linformer_fairseq.checkpoints.hf_tokenizer import build_tokenizer
from linformer_fairseq.errors import UsageError

TEXTS = [
    "An ordinary sentence, with 2 numbers (1,234) and don't.",
    "  two spaces before, two  within and one behind ",
    "a\ttab, a\u00a0no-break space, an \u3000ideographic one, \x1c a separator \x85 and \u2028 two line ends",
    "日本語のテキスト、漢字とかな。 한국어 텍스트 \U00020000\U0002ebf0 e\u0301 a\u0308",
    "😀👩\u200d👩\u200d👧🇪🇺 \x00\x7f\ufffd\ufeff",
    "literally <0x0A> <0xe2> madeupword0000 xmadeupword0000y <|endoftext|> ▁ Ġ",
    "\U0010ffff",
    *("▁x", "x▁", "▁ x", " ▁x", "a▁ b", "a ▁b", "▁", " ", "", "\n", "a\n\n b \n", "é", "<0xA1>" * 3),
]


@pytest.fixture(scope="session")
def docstrings() -> list[str]:
    """Lines of English, code and tables, the same on every machine with these packages."""
    found = [inspect.getdoc(getattr(module, name)) for module in (torch, json, pytest, random) for name in dir(module)]
    lines = {line for text in found if text for line in text.split("\n") if line.strip()}
    return random.Random(0).sample(sorted(lines), 2000)


@pytest.fixture(scope="session", params=["unigram", "bpe", "gpt2"])
def tokenizer_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, docstrings: list[str]
) -> Path:
    """A folder of a tokenizer with about 600 symbols, as data_prep makes it."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "gpt2":
        write_gpt2(folder)
        return folder
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(docstrings),
        model_writer=model,
        model_type=request.param,
        vocab_size=600,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        byte_fallback=True,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (folder / "sentencepiece.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    names = [processor.id_to_piece(i) for i in range(1, len(processor))] + ["madeupword0000", "madeupword0001"]
    (folder / "dict.txt").write_text("".join(f"{name} 1\n" for name in names), encoding="utf-8")
    return folder


def write_gpt2(folder: Path) -> None:
    """A small byte-level BPE, its dictionary in another order, as RoBERTa's."""
    from tokenizers import pre_tokenizers

    merges = ["t h", "Ġ th", "Ġth e", "o r", "i n", "Ġ a", "n d", "Ġa nd", "ã ģ", "ð Ł", "s e"]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|endoftext|>"])}
    (folder / "encoder.json").write_text(json.dumps(vocabulary))
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    order = [str(i) for i in vocabulary.values()]
    random.Random(0).shuffle(order)
    (folder / "dict.txt").write_text("".join(f"{name} 1\n" for name in [*order, "madeupword0000"]))


def same(tokenizer: PreTrainedTokenizerFast, encoder: encoders.Encoder, text: str) -> bool:
    ids: list[int] = encoder.encode([" ".join(text.split())])[0].tolist()
    return ids == tokenizer.encode(text, add_special_tokens=False)


def as_probable(folder: Path, one: list[str], two: list[str]) -> bool:
    """Whether a unigram model scores both segmentations the same, when either may be the best one."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    first, second = (sum(processor.get_score(processor.piece_to_id(piece)) for piece in each) for each in (one, two))
    return "".join(one) == "".join(two) and abs(first - second) < 1e-4


def test_ids_are_those_of_training(tokenizer_folder: Path, docstrings: list[str]) -> None:
    tokenizer, encoder = build_tokenizer(tokenizer_folder, 512), encoders.load(tokenizer_folder)
    assert len(tokenizer) == encoder.symbols
    assert [text for text in TEXTS if not same(tokenizer, encoder, text)] == []
    different = [line for line in docstrings if not same(tokenizer, encoder, line)]
    assert len(different) <= 5
    for line in different:
        ours = tokenizer.tokenize(line)
        theirs = [encoder.names[i] for i in encoder.encode([" ".join(line.split())])[0]]
        assert as_probable(tokenizer_folder, ours, theirs), line


@given(st.text())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_of_any_text(loaded: tuple[PreTrainedTokenizerFast, encoders.Encoder], text: str) -> None:
    assume(not any(name in text for name in (*SPECIALS, "<mask>")))
    assert same(*loaded, text)


@pytest.fixture(scope="session")
def loaded(tokenizer_folder: Path) -> tuple[PreTrainedTokenizerFast, encoders.Encoder]:
    return build_tokenizer(tokenizer_folder, 512), encoders.load(tokenizer_folder)


def test_special_symbols_and_padding(tokenizer_folder: Path) -> None:
    tokenizer = build_tokenizer(tokenizer_folder, 24)
    mask = len(tokenizer) - 1
    assert [tokenizer.convert_tokens_to_ids(name) for name in (*SPECIALS, "<mask>")] == [0, 1, 2, 3, mask]
    single, pair = tokenizer("the"), tokenizer("the", "a")
    the, a = (tokenizer.encode(word, add_special_tokens=False) for word in ("the", "a"))
    assert single["input_ids"] == [0, *the, 2] and "token_type_ids" not in single
    assert pair["input_ids"] == [0, *the, 2, 2, *a, 2]
    padded = tokenizer(["the", "the a"], padding=True)
    missing = len(padded["input_ids"][1]) - len(the) - 2
    assert padded["input_ids"][0] == [0, *the, 2, *[1] * missing]
    assert padded["attention_mask"][0][-missing:] == [0] * missing
    assert len(tokenizer("the a " * 50, truncation=True)["input_ids"]) == 24


def test_mask_takes_the_space_before_it(tokenizer_folder: Path) -> None:
    tokenizer, encoder = build_tokenizer(tokenizer_folder, 512), encoders.load(tokenizer_folder)
    mask = tokenizer.mask_token_id
    ids = tokenizer.encode("one <mask> two <mask>.", add_special_tokens=False)
    whole = tokenizer.encode("one two.", add_special_tokens=False)
    assert [i for i in ids if i != mask] == whole == encoder.encode(["one two."])[0].tolist()
    assert ids[-2] == mask
    for text in ("<mask> one", " <mask>\tone\n", "<mask>one <mask> "):
        found = tokenizer.encode(text, add_special_tokens=False)
        assert found == tokenizer.encode(" ".join(text.split()), add_special_tokens=False)


def test_words_are_those_between_spaces(tokenizer_folder: Path) -> None:
    tokenizer = build_tokenizer(tokenizer_folder, 512)
    text = "Hello  wide\tworld and unforeseeable 日本 words "
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    words: dict[int, list[int]] = {}
    for word, offsets in zip(encoded.word_ids(), encoded["offset_mapping"], strict=True):
        words.setdefault(word, []).extend(offsets)
    assert [text[min(offsets) : max(offsets)] for offsets in words.values()] == text.split()
    assert list(words) == list(range(7))
    apart = tokenizer(text.split(), is_split_into_words=True, add_special_tokens=False)
    assert sorted(set(apart.word_ids())) == list(range(7))


def test_whole_words_are_masked(tokenizer_folder: Path) -> None:
    """The collator takes tokens for one word whose offsets touch; those of a space alone are the next character's."""
    tokenizer = build_tokenizer(tokenizer_folder, 512)
    text = "Hello wide world and unforeseeable words"
    encoded = tokenizer(text, add_special_tokens=False)
    words = [None if token == "▁" else word for token, word in zip(encoded.tokens(), encoded.word_ids(), strict=True)]
    options = {"whole_word_mask": True, "mask_replace_prob": 1, "random_replace_prob": 0}
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5, seed=0, **options)
    masked = collate([tokenizer(text, return_offsets_mapping=True)] * 20)["labels"][:, 1:-1].ne(-100)
    for word in range(6):
        of_word = masked[:, [other == word for other in words]]
        assert torch.equal(of_word.all(1), of_word.any(1)) and 0 < of_word.all(1).sum() < 20


def test_any_text_comes_back_from_bytes(tokenizer_folder: Path) -> None:
    tokenizer = build_tokenizer(tokenizer_folder, 512)
    for text in ("☃ 日本語 é", "x\U0002ebf0y", "Ünïcödé 😀", "a <0xE2> b"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
        assert tokenizer.batch_decode(tokenizer([text])["input_ids"], skip_special_tokens=True) == [text]


def test_text_comes_back(tokenizer_folder: Path) -> None:
    tokenizer = build_tokenizer(tokenizer_folder, 512)
    text = "Hello wörld, 日本 😀 (the second)."
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_saved_and_loaded_by_auto_tokenizer(tokenizer_folder: Path, tmp_path: Path, docstrings: list[str]) -> None:
    tokenizer = build_tokenizer(tokenizer_folder, 77)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == 77 and again.padding_side == "right"
    assert again(docstrings[:50])["input_ids"] == tokenizer(docstrings[:50])["input_ids"]


@pytest.mark.parametrize(
    ("tokenizer_folder", "spoil", "message"),
    [
        ("bpe", lambda folder: (folder / "dict.txt").unlink(), "dict.txt: missing; make it with"),
        ("bpe", lambda folder: (folder / "dict.txt").write_text("a\n"), "line 1 is not `symbol count`"),
        ("bpe", lambda folder: (folder / "dict.txt").write_text("a 1\na 1\n"), "lists 'a' a second time"),
        ("bpe", lambda folder: (folder / "dict.txt").write_text("a 1\n"), "has no .*, token . of sentencepiece.model"),
        ("gpt2", lambda folder: (folder / "dict.txt").write_text("7 1\n"), "has no .*, token 0 of encoder.json"),
        ("unigram", lambda folder: (folder / "sentencepiece.model").unlink(), "neither sentencepiece.model nor"),
        ("unigram", lambda folder: (folder / "sentencepiece.model").write_bytes(b"no"), "not a sentencepiece model"),
        ("gpt2", lambda folder: (folder / "encoder.json").write_text("{"), "encoder.json: not JSON"),
        ("gpt2", lambda folder: (folder / "vocab.bpe").write_text("x\na b c\n"), "vocab.bpe: does not match"),
    ],
    indirect=["tokenizer_folder"],
)
def test_other_files_are_refused_in_a_sentence(
    tokenizer_folder: Path, spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    for path in tokenizer_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path)
    with pytest.raises(UsageError, match=message):
        build_tokenizer(tmp_path, 512)
