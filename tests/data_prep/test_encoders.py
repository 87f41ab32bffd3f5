"""Ids of our encoders beside those of fairseq's own --bpe and dictionary."""

from __future__ import annotations

import io
import json
import random
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from fairseq.data.dictionary import Dictionary
from fairseq.data.encoders import build_bpe
from fairseq.data.encoders.utils import get_whole_word_mask
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import encoders
from data_prep.fairseq_dict import SPECIALS, dictionary_text, read_dictionary
from linformer_fairseq.errors import UsageError

TEXTS = [
    "An ordinary sentence, with 2 numbers (1,234) and don't.",
    "  two spaces before, two  within and one behind ",
    "a\ttab, a\u00a0no-break space, an \u3000ideographic one, \x1c a separator \x85 and \u2028 two line ends",
    "日本語のテキスト、漢字とかな。 한국어 텍스트 \U00020000\U0002ebf0",
    "emoji 😀👩‍👩‍👧‍👦🇪🇺 and combining e\u0301 a\u0308",
    "literally <s> </s> <pad> <unk> <mask> <0x0A> madeupword0000 <|endoftext|> \u2581 \u0120",
    "\x00\x01\x7f control \ufffd\ufeff\u200b",
    "",
    " ",
    "ÅÆØ ςσ ﬁ ½ ² ٣ ⅷ",
]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as others make them: control pieces of its own, normalization, no byte fallback; all that fairseq has."""
    folder = tmp_path_factory.mktemp("foreign")
    model = io.BytesIO()
    words = "the quick brown fox jumps over a lazy dog and runs away from 3 ordinary sentences with numbers".split()
    sentences = [" ".join(random.Random(n).sample(words, 9)) for n in range(300)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=3,
        control_symbols=["<mask>"],
        user_defined_symbols=["[SEP]"],
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (folder / encoders.SENTENCEPIECE).write_bytes(model.getvalue())
    processor = encoders.load_model(folder / encoders.SENTENCEPIECE)
    found = encoders.pieces(processor, folder)
    (folder / "dict.txt").write_text(dictionary_text(found, [1] * len(found)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small byte-level BPE in GPT-2's files, its dictionary in another order, as RoBERTa's."""
    pytest.importorskip("tokenizers")
    from tokenizers import pre_tokenizers

    folder = tmp_path_factory.mktemp("gpt2")
    merges = ["t h", "\u0120 th", "\u0120th e", "o r", "i n", "\u0120 a", "n d", "\u0120a nd", "ã ģ", "ð Ł", "s e"]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(m.replace(" ", "") for m in merges)]
    vocabulary = {token: i for i, token in enumerate([*tokens, encoders.END_OF_TEXT])}
    (folder / encoders.GPT2_VOCABULARY).write_text(json.dumps(vocabulary))
    (folder / encoders.GPT2_MERGES).write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    order = [str(i) for i in vocabulary.values()]
    random.Random(0).shuffle(order)
    (folder / "dict.txt").write_text(dictionary_text(order, [0] * len(order)))
    return folder


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory, shared_data: Callable[[str], Path]) -> Path:
    """The files of RoBERTa."""
    import tarfile

    archive = shared_data("tokenizer/gpt2_bpe.tar.xz")
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("roberta")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    folder /= "gpt2_bpe"
    (folder / "dict.roberta.txt").replace(folder / "dict.txt")
    return folder


@pytest.fixture(params=["tokenizer", "foreign", "gpt2", "roberta"])
def folder(request: pytest.FixtureRequest) -> Path:
    """Each kind of tokenizer folder."""
    path: Path = request.getfixturevalue(request.param)
    return path


class Fairseq:
    """fairseq's own `--bpe` and dictionary."""

    def __init__(self, folder: Path) -> None:
        if (folder / encoders.SENTENCEPIECE).exists():
            sampling = {"sentencepiece_enable_sampling": False, "sentencepiece_alpha": None}
            files = {"bpe": "sentencepiece", "sentencepiece_model": str(folder / encoders.SENTENCEPIECE), **sampling}
        else:
            vocabulary, merges = (str(folder / name) for name in (encoders.GPT2_VOCABULARY, encoders.GPT2_MERGES))
            files = {"bpe": "gpt2", "gpt2_encoder_json": vocabulary, "gpt2_vocab_bpe": merges}
        self.arguments = Namespace(**files)
        self.bpe = build_bpe(self.arguments)
        self.dictionary = Dictionary.load(str(folder / "dict.txt"))
        self.dictionary.add_symbol("<mask>")

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without </s>."""
        line = self.bpe.encode(text)
        ids: list[int] = self.dictionary.encode_line(line, append_eos=False, add_if_not_exist=False).tolist()
        return ids


@pytest.fixture
def fairseq(folder: Path) -> Fairseq:
    """fairseq with the tokenizer in `folder`."""
    return Fairseq(folder)


def encode_each(encoder: encoders.Encoder, texts: list[str]) -> list[list[int]]:
    """The ids of each text."""
    ids, lengths = encoder.encode(texts)
    assert len(ids) == lengths.sum()
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def test_ids_are_those_of_fairseq(folder: Path, fairseq: Fairseq) -> None:
    encoder = encoders.load(folder)
    for text, ids in zip(TEXTS, encode_each(encoder, TEXTS), strict=True):
        assert ids == fairseq.encode(text), text
    assert encoder.encode([])[0].tolist() == []


LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\n")
ANY_TEXT = st.text(LETTERS, max_size=40)


@pytest.mark.parametrize("name", ["tokenizer", "foreign", "gpt2"])
def test_ids_of_any_text_are_those_of_fairseq(request: pytest.FixtureRequest, name: str) -> None:
    folder = request.getfixturevalue(name)
    encoder, fairseq = encoders.load(folder), Fairseq(folder)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(ANY_TEXT, min_size=1, max_size=4))
    def check(texts: list[str]) -> None:
        assert encode_each(encoder, texts) == [fairseq.encode(text) for text in texts]

    check()


def test_sizes_and_word_starts_are_those_of_fairseq(folder: Path, fairseq: Fairseq) -> None:
    encoder = encoders.load(folder)
    assert encoder.symbols == len(fairseq.dictionary)
    expected = get_whole_word_mask(fairseq.arguments, fairseq.dictionary)
    assert encoder.starts_word.tolist() == [bool(x) for x in expected]


def test_decoding_gives_text_back(folder: Path) -> None:
    encoder = encoders.load(folder)
    # The foreign model knows few letters; the others any.
    texts = ["the lazy dog and runs"] if folder.name.startswith("foreign") else [*TEXTS[:2], *TEXTS[3:7]]
    for text, ids in zip(texts, encode_each(encoder, texts), strict=True):
        # sentencepiece makes white space single spaces, as paragraphs of a corpus have them, and writes them as U+2581.
        expected = (
            text
            if encoders.GPT2_MERGES in encoder.files
            else " ".join(filter(None, text.split(" "))).replace("\u2581", " ")
        )
        assert encoder.decode([0, *ids, 2, 1]) == expected
    assert encoder.decode([encoder.symbols - 1]) == "<mask>"


@pytest.mark.parametrize("name", ["tokenizer", "gpt2"])
def test_surfaces_are_the_bytes_of_the_text(request: pytest.FixtureRequest, name: str) -> None:
    encoder = encoders.load(request.getfixturevalue(name))
    for text in ("An ordinary sentence.", "日本語 e\u0301 😀👩‍👩‍👧‍👦", "नि。"):
        found = b"".join(encoder.surfaces[i] for i in encoder.encode([text])[0])
        assert found.decode().removeprefix(" ") == text


def test_surfaces_of_a_tokenizer_of_huggingface(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    own = ["un", "##able", "好", "。"]
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *own])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    (tmp_path / encoders.HUGGINGFACE).mkdir()
    tokenizer.save(str(tmp_path / encoders.HUGGINGFACE / encoders.HUGGINGFACE_FAST))
    names = [str(vocabulary[token]) for token in own]
    (tmp_path / encoders.DICTIONARY).write_text(dictionary_text(names, [1] * len(names)))
    encoder = encoders.load(tmp_path)
    found = [encoder.surfaces[i] for i in encoder.encode(["unable 好。x"])[0]]
    assert found == [b" un", b"able", " 好".encode(), " 。".encode(), "\ufffd".encode()]


def test_every_file_that_is_named_exists(folder: Path) -> None:
    assert all((folder / name).is_file() for name in encoders.load(folder).files)


def test_a_model_that_fairseq_cannot_number_is_refused(tmp_path: Path) -> None:
    for symbol, message in (("<mask>", "special symbol of fairseq"), ("a\u3000b", "has white space")):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a bc def"] * 9),
            model_writer=model,
            vocab_size=20,
            hard_vocab_limit=False,
            user_defined_symbols=[symbol],
            minloglevel=2,
        )
        (tmp_path / encoders.SENTENCEPIECE).write_bytes(model.getvalue())
        (tmp_path / "dict.txt").write_text("")
        with pytest.raises(UsageError, match=rf"sentencepiece\.model: piece \d+, .*{message}"):
            encoders.load(tmp_path)


def copied(folder: Path, to: Path) -> Path:
    """A copy that may be spoilt."""
    for path in filter(Path.is_file, folder.iterdir()):
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_dictionary_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    spoilt = copied(folder, tmp_path)
    lines = (spoilt / "dict.txt").read_text(encoding="utf-8").splitlines()
    for change, message in (
        ([*lines[:4], "nobody 7", *lines[5:]], "line 5, 'nobody', is no token of"),
        (lines[:6], "has no .*, token "),
        ([*lines[:2], lines[0]], "line 3 lists .* a second time"),
        ([*lines[:2], "alone"], "line 3 is not `symbol count` but 'alone'"),
    ):
        (spoilt / "dict.txt").write_text("".join(f"{line}\n" for line in change), encoding="utf-8")
        with pytest.raises(UsageError, match=rf"dict\.txt: {message}"):
            encoders.load(spoilt)
    (spoilt / "dict.txt").unlink()
    with pytest.raises(UsageError, match=r"dict\.txt: missing"):
        encoders.load(spoilt)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither sentencepiece\.model nor encoder\.json here; make it with"):
        encoders.load(tmp_path)
    for name in ("train.idx", "dict.txt"):  # of data
        (tmp_path / name).touch()
        with pytest.raises(UsageError, match=r"encoder\.json here; copy the files of the tokenizer that made its dict"):
            encoders.load(tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / encoders.SENTENCEPIECE).write_bytes(b"no model")
    with pytest.raises(UsageError, match=r"sentencepiece\.model: not a sentencepiece model"):
        encoders.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (encoders.GPT2_VOCABULARY, "{", r"encoder\.json: not JSON"),
        (encoders.GPT2_VOCABULARY, "[]", r"encoder\.json: not a table from token to id"),
        (encoders.GPT2_MERGES, "#version\nx y z\n", r"vocab\.bpe: does not match its encoder\.json"),
        (encoders.GPT2_MERGES, "#version\nzz qq\n", r"vocab\.bpe: does not match its encoder\.json"),
    ],
)
def test_broken_files_of_gpt2_are_refused(gpt2: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    spoilt = copied(gpt2, tmp_path)
    (spoilt / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        encoders.load(spoilt)


def test_a_dictionary_is_read_as_fairseq_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("a 5\nb 3\n<unk> 1 #fairseq:overwrite\n\u2581 -1\n", encoding="utf-8")
    dictionary = Dictionary.load(str(path))
    dictionary.add_symbol("<mask>")
    symbols = read_dictionary(path)
    assert symbols == dictionary.symbols
    assert {name: i for i, name in enumerate(symbols)} == dictionary.indices
    path.write_bytes(b"a 5\n\xff 3\n")
    with pytest.raises(UsageError, match=r"dict\.txt: byte 4 is not UTF-8"):
        read_dictionary(path)


def test_a_dictionary_is_filled_up_to_a_multiple_of_64(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text(dictionary_text(["a", "b"], [2, 1]))
    symbols = read_dictionary(path)
    assert symbols[:6] == [*SPECIALS, "a", "b"] and symbols[6] == "madeupword0000" and symbols[-1] == "<mask>"
    assert len(symbols) == 64 and max(Counter(symbols).values()) == 1
