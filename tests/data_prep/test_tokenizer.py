"""Trained and imported tokenizers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fairseq.data.dictionary import Dictionary

from data_prep import encoders
from data_prep.__main__ import main
from data_prep.config import TokenizerConfig
from data_prep.corpus import corpus_files, read_file, write_file
from data_prep.tokenizer import make_tokenizer, sample
from linformer_fairseq.errors import UsageError

FILES = ("sentencepiece.model", "dict.txt")


def test_fairseq_counts_as_many_symbols_as_asked(tokenizer: Path) -> None:
    dictionary = Dictionary.load(str(tokenizer / "dict.txt"))
    dictionary.add_symbol("<mask>")
    assert len(dictionary) == 512 == encoders.load(tokenizer).symbols


def test_training_again_gives_the_same_bytes(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    make_tokenizer(corpus, tmp_path, TokenizerConfig(512))
    assert all((tmp_path / name).read_bytes() == (tokenizer / name).read_bytes() for name in FILES)


def test_any_text_comes_back(tokenizer: Path) -> None:
    encoder = encoders.load(tokenizer)
    text = "Naïve café \u6f22\u5b57 \U0001f600 <mask> <s>"
    assert encoder.decode(encoder.encode([text])[0]) == text


def test_the_sample_depends_on_the_text_alone(corpus: Path, tmp_path: Path) -> None:
    """Not on the files, their order, or the number of workers."""
    files = corpus_files(corpus)
    write_file((document for path in files[::-1] for document in read_file(path)), tmp_path / "one/all.parquet")
    found = []
    for name, paths, workers in (("a", files, 2), ("b", corpus_files(tmp_path / "one"), 0)):
        done = sample(paths, tmp_path / name, workers, 50_000)
        parts = [tmp_path / name / part for shard in done.values() for part in shard["files"]]
        found.append(sorted(line for part in parts for line in part.read_bytes().splitlines()))
    assert found[0] == found[1]
    assert 20_000 < sum(map(len, found[0])) < 100_000


def test_an_imported_model_keeps_its_ids(tokenizer: Path, tmp_path: Path) -> None:
    make_tokenizer(None, tmp_path / "folder", TokenizerConfig(existing=str(tokenizer)))
    assert all((tmp_path / "folder" / name).read_bytes() == (tokenizer / name).read_bytes() for name in FILES)
    shutil.copy(tokenizer / "sentencepiece.model", tmp_path / "other.model")
    record = make_tokenizer(None, tmp_path / "alone", TokenizerConfig(existing=str(tmp_path / "other.model")))
    assert record["result"]["symbols"] == 512
    texts = ["Returns the number of items.", "x = [1, 2]"]
    ids = [encoders.load(folder).encode(texts)[0].tolist() for folder in (tokenizer, tmp_path / "alone")]
    assert ids[0] == ids[1]


def test_symbols_coverage_and_byte_fallback_are_settings(corpus: Path, tmp_path: Path) -> None:
    settings = TokenizerConfig(256, user_symbols=("<b>", "[NAME]"), character_coverage=0.98, byte_fallback=False)
    make_tokenizer(corpus, tmp_path, settings)
    encoder = encoders.load(tmp_path)
    symbols = [encoder.names[i] for i in encoder.encode(["a <b>of [NAME]s"])[0]]
    assert "<b>" in symbols and "[NAME]" in symbols and len(encoder.names) == 256
    rare = encoder.encode(["漢"])[0].tolist()
    assert encoder.names[rare[-1]] == "<unk>" and not any(name.startswith("<0x") for name in encoder.names)
    dictionary = Dictionary.load(str(tmp_path / "dict.txt"))
    assert dictionary.index("[NAME]") == encoder.names.index("[NAME]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CORPUS", "--vocab-size", "500"], "--vocab-size 500: must be a multiple of 64, for example 512"),
        (["CORPUS", "--vocab-size", "64"], "--vocab-size 64: must be at least 320"),
        (["CORPUS", "--vocab-size", "0", "--no-byte-fallback"], "--vocab-size 0: must be at least 64 and"),
        (["CORPUS", "--character-coverage", "0.5"], "--character-coverage 0.5: must be at least 0.98"),
        (
            ["CORPUS", "--user-symbols", "<a>", "<mask>"],
            "--user-symbols <mask>: is a special symbol of fairseq",
        ),
        (["CORPUS", "--user-symbols", "a b"], "--user-symbols 'a b': has white space"),
        (["CORPUS", "--user-symbols", ""], "--user-symbols '': is empty"),
        (["CORPUS", "--user-symbols", "<a>", "<b>", "<a>"], "--user-symbols <a>: is there twice; name each once"),
        (["CORPUS", "--user-symbols", "<0x41>"], "--user-symbols <0x41>: stands for a byte"),
        (["CORPUS", "--vocab-size", "640000"], "--vocab-size 640000 does not suit this corpus"),
        (["--vocab-size", "512"], "give the folder of a corpus"),
        (["--import", "absent"], "absent: missing; give a sentencepiece model"),
        (["absent"], "absent: no .parquet files here"),
    ],
)
def test_wrong_use_is_one_sentence(
    arguments: list[str], message: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(corpus) if a == "CORPUS" else a for a in arguments]
    assert main(["tokenizer", *given, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and error.startswith("data_prep tokenizer: error: ")


def test_a_dictionary_of_another_model_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(tokenizer, folder)
    lines = (folder / "dict.txt").read_text().splitlines(keepends=True)
    (folder / "dict.txt").write_text("".join([*lines[:99], "strange 1\n", *lines[100:]]))
    with pytest.raises(UsageError, match=r"dict\.txt: line 100, 'strange', is no token of sentencepiece\.model"):
        encoders.load(folder)
