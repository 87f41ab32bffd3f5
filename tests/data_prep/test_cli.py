"""The commands of the stages, one after the other, do what ``run`` does."""

from __future__ import annotations

import errno
import io
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.binarize import binarize
from data_prep.clean import clean
from data_prep.cli import parse
from data_prep.config import (
    BinarizeConfig,
    DecontaminateConfig,
    ReadingConfig,
    SourceConfig,
    SplitConfig,
    TokenizerConfig,
    from_flags,
)
from data_prep.corpus import Document, write_file
from data_prep.decontaminate import decontaminate
from data_prep.dedup import dedup
from data_prep.extract import extract
from data_prep.pipeline import load_config
from data_prep.split import split
from data_prep.text.minhash import NearDuplicates
from data_prep.text.rules import CleanConfig
from data_prep.tokenizer import make_tokenizer
from linformer_fairseq.errors import exit_status

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a few texts, two of which are the same."""
    folder = tmp_path_factory.mktemp("texts")
    for name in "abcdef":
        chance = random.Random(name)
        words = ["".join(chance.choices("aeioulmnrst", k=chance.randint(2, 8))) for _ in range(900)]
        (folder / f"{name}.txt").write_text("\n".join(" ".join(words[i : i + 20]) for i in range(0, 900, 20)))
    (folder / "g.txt").write_text((folder / "a.txt").read_text())
    return folder


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system with the options given."""
    folder = tmp_path / "tmpfs"
    folder.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("mounting a tmpfs needs root")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


def test_stage_by_stage_gives_the_data_of_a_run(texts: Path, tmp_path: Path) -> None:
    at = {name: str(tmp_path / name) for name in ("corpus", "clean", "dedup", "split", "tokenizer", "data")}
    settings = ["tokenizer.vocab_size=320", "split.valid=0.3", "split.test=0.1"]
    assert main(["run", "folder", f"input={texts}", *settings, "--out", str(tmp_path / "run")]) == 0
    for command in (
        ["extract", "--source", "text", str(texts), "--out", at["corpus"]],
        ["clean", at["corpus"], "--out", at["clean"]],
        ["dedup", at["clean"], "--out", at["dedup"]],
        ["split", at["dedup"], "--out", at["split"], "--valid", "0.3", "--test", "0.1"],
        ["tokenizer", f"{at['split']}/train", "--out", at["tokenizer"], "--vocab-size", "320"],
        ["binarize", at["split"], "--tokenizer", at["tokenizer"], "--out", at["data"]],
    ):
        assert main(command) == 0
    for name in ("train.bin", "train.idx", "valid.bin", "valid.idx", "dict.txt", "sentencepiece.model"):
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "run/data" / name).read_bytes()


def test_a_configuration_without_its_input_says_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "folder", "--out", str(tmp_path)]) == 1
    assert "data_prep run: error: folder: needs input=PATH, a file or folder" in capsys.readouterr().err


def test_a_section_that_is_null_is_no_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("sources: [{source: docstrings}]\ndedup: null\n")
    assert main(["dedup", str(tmp_path), "--out", str(tmp_path / "out"), "--config", str(config)]) == 1
    assert f"error: {config}: its section dedup is null, so" in capsys.readouterr().err


def tells(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that fails says."""
    assert main(list(map(str, arguments))) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_too_few_documents_to_split_name_shares_that_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for n in range(51):
        (tmp_path / f"in/{n}.txt").write_text(f"Book {n}.")
    corpus, split = tmp_path / "corpus", tmp_path / "split"
    assert main(["extract", "--source", "text", str(tmp_path / "in"), "--out", str(corpus)]) == 0
    said = tells("split", corpus, "--out", split, "--valid", "0.06", "--test", "0.001", capsys=capsys)
    assert "of 51 documents, none is in test" in said and "--document-end blank or line" in said
    advice = re.search(r"choose (--valid \S+) (--test [\d.]+)", said)
    assert advice and main(["split", str(corpus), "--out", str(split), *" ".join(advice.groups()).split()]) == 0
    empty = split / "test/text-00000-000.parquet"
    write_file([], empty)
    assert "test: no documents; " in tells("binarize", split, "--tokenizer", split, "--out", corpus, capsys=capsys)


def test_one_file_of_many_documents_leads_to_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(1)
    words = ["".join(chance.choices("aeioulmnrst", k=chance.randint(2, 8))) for _ in range(900)]
    file = tmp_path / "notes #2"
    file.write_text("\n\n".join(" ".join(chance.choices(words, k=60)) + "." for _ in range(60)))
    run = ["run", "folder", f"input={file}", "split.valid=0.2", "--vocab-size", "384", "--out", tmp_path / "run"]
    assert "--document-end blank or line" in tells(*run, capsys=capsys)
    run += ["--document-end", "blank"]
    assert "add --redo extract" in tells(*run, capsys=capsys)
    assert main([*map(str, run), "--redo", "extract"]) == 0
    data = tmp_path / "run/data/train.bin"
    whole = data.read_bytes()
    data.write_bytes(whole[:-2])
    assert main([*map(str, run)]) == 0 and data.read_bytes() == whole
    data.unlink()
    assert main([*map(str, run)]) == 0 and data.read_bytes() == whole
    assert "were changed or removed since, and are made again" in capsys.readouterr().out


def test_the_vocabulary_that_is_advised_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(1)
    few = ["".join(chance.choices("aeioulmnrst", k=chance.randint(2, 8))) for _ in range(40)]
    han = ["".join(chr(0x4E00 + chance.randrange(300)) for _ in range(2)) for _ in range(999)]
    corpora = {
        "few": " ".join(chance.choices(few, k=300)),
        "han": "\n".join("".join(chance.choices(han, k=9)) for _ in range(2000)),
        "none": "a",
    }
    found: dict[str, list[str]] = {}
    for name, text in corpora.items():
        corpus, size = tmp_path / name, "512"
        write_file([Document("a", "text", "", text)], corpus / "a.parquet")
        while main(["tokenizer", str(corpus), "--out", str(tmp_path / f"{name}-out"), "--vocab-size", size]):
            said = capsys.readouterr().err.splitlines()[-1]
            advice = re.search(r"--vocab-size (\d+)$", said)
            found.setdefault(name, []).append(advice[1] if advice else "give more text" * ("give more text" in said))
            if not advice:
                break
            size = advice[1]
    assert found == {"few": ["320"], "han": ["576"], "none": ["give more text"]}


def test_input_that_cannot_be_read_is_skipped_under_run(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "yes"
    shutil.copytree(texts, folder)
    (folder / "z.txt").write_bytes(b"\xff\xff\n")
    run = ["run", "folder", f"input={folder}", "--vocab-size=320", "--valid", "0.3", "--out", tmp_path / "run"]
    assert "skip such input with --on-error skip" in tells(*run, capsys=capsys)
    assert main([*map(str, run), "--on-error", "skip"]) == 0
    assert "z.txt" in (tmp_path / "run/report.md").read_text()


@pytest.mark.parametrize("name", ["yes", "notes #2", "2024", "null", "1_000", "[x]", "{a: b}", "a: b", "'q'", "${x}"])
def test_the_name_of_an_input_is_taken_as_it_is(name: str) -> None:
    assert load_config("folder", [f"input={name}"]).sources[0].inputs == [name]
    listed = load_config(
        "folder", ["input=x", "sources.0.inputs=[yes, 1_000]", "split.valid=1e-3", "sources.0.name=no"]
    )
    assert listed.sources[0].inputs == ["yes", "1_000"] and listed.split.valid == 0.001
    assert listed.sources[0].name == "no" and load_config("folder", ["input=x", "clean=null"]).clean is None


def test_help_imports_no_large_package() -> None:
    code = (
        "import sys; from data_prep.cli import parser; parser().format_help();"
        "print({'torch', 'numpy', 'pyarrow', 'omegaconf', 'fairseq', 'tqdm'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["extract", "--source", "text"], [ReadingConfig(), SourceConfig("text")]),
        (["split", "corpus"], [SplitConfig()]),
        (["split", "corpus", "--valid", "0.2"], [SplitConfig(valid=0.2)]),
        (["tokenizer", "corpus"], [TokenizerConfig()]),
        (
            ["tokenizer", "c", "--user-symbols", "<a>", "[b]", "--no-byte-fallback"],
            [TokenizerConfig(user_symbols=["<a>", "[b]"], byte_fallback=False)],
        ),
        (["tokenizer", "--import", "model", "--vocab-size", "640"], [TokenizerConfig(640, existing="model")]),
        (["binarize", "corpus", "--tokenizer", "t", "--shards", "3"], [BinarizeConfig(shards=3)]),
        (["decontaminate", "corpus", "--benchmarks", "a", "b"], [DecontaminateConfig(["a", "b"])]),
    ],
)
def test_flags_are_the_settings_of_the_stages(arguments: list[str], settings: list[object]) -> None:
    parsed = parse([*arguments, "--out", "out"])
    assert [from_flags(type(expected), parsed) for expected in settings] == settings


def test_settings_of_a_run_may_stand_behind_its_flags() -> None:
    assert parse(["run", "demo", "a=1", "--out", "out", "b.c=2"]).changes == ["a=1", "b.c=2"]
    flags = ["--user-symbols", "<a>", "no", "clean=null", "--no-byte-fallback", "--vocab-size=64", "--math", "text"]
    changes = parse(["run", "wikipedia_en", *flags, "--out", "out"]).changes
    settings = load_config("wikipedia_en", changes)
    assert settings.tokenizer == TokenizerConfig(64, user_symbols=["<a>", "no"], byte_fallback=False)
    assert settings.sources[0].math == "text"
    with pytest.raises(SystemExit):
        parse(["run", "demo", "--out", "out", "--nothing=2"])


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "corpus: no space left; free some, and the same command resumes from here"),
        (errno.EROFS, "corpus: Read-only file system; give access to it, or choose another --out"),
    ],
)
def test_what_the_system_refuses_is_said_in_a_sentence(
    number: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "Read-only file system", "corpus")

    monkeypatch.setattr("data_prep.split.split", refuse)
    assert main(["split", "corpus", "--out", "x"]) == 1
    assert message in capsys.readouterr().err


def test_every_stage_says_in_a_sentence_that_the_disk_is_full(
    corpus: Path,
    splits: Path,
    tokenizer: Path,
    texts: Path,
    tmp_path: Path,
    tmpfs: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmpfs("size=8k")
    (tmp_path / "dev.txt").write_text("one two three four five six seven eight nine ten\n")
    stages: dict[str, Callable[[Path], object]] = {
        "extract": lambda out: extract(SourceConfig("text", [str(texts)]), out, ReadingConfig(), 0),
        "clean": lambda out: clean(corpus, out, CleanConfig(), 0),
        "dedup": lambda out: dedup(corpus, out, NearDuplicates(), 0),
        "decontaminate": lambda out: decontaminate(corpus, out, DecontaminateConfig([str(tmp_path)]), 0),
        "split": lambda out: split(corpus, out, SplitConfig(valid=0.1), 0),
        "tokenizer": lambda out: make_tokenizer(None, out, TokenizerConfig(existing=str(tokenizer))),
        "binarize": lambda out: binarize(splits, tokenizer, out, BinarizeConfig(), 0),
    }
    for name, stage in stages.items():
        assert exit_status(name, lambda stage=stage: stage(out / "x")) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.endswith("no space left; free some, and the same command resumes from here"), name
        shutil.rmtree(out / "x")


def test_output_without_unicode_and_a_folder_without_hard_links_end_well(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    folder = tmp_path / "é\udcff"
    shutil.copytree(texts, folder)
    (folder / "à.txt").write_bytes(b"\xff\xff\n")
    run = ["run", "folder", f"input={folder}", "--vocab-size=320", "--valid=0.3", "--on-error=skip"]
    assert main([*run, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/data/train.idx").exists()


def test_the_advice_of_each_stage_leads_on(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "folder", f"input={texts}", "--vocab-size", "320", "--valid", "0.3", "--out", tmp_path / "run"]
    run.append("clean.min_characters=100000")
    said = tells(*run, capsys=capsys)
    assert "clean: drops all documents (7 too few characters)" in said and "under run with clean=null" in said
    settings = tmp_path / "run/dedup/.work/dedup.settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"settings": {"threshold": 0.5}}')
    (tmp_path / "run/dedup/text-00000-000.parquet").touch()
    said = tells(*run, "clean=null", capsys=capsys)
    assert "holds the unfinished work of other settings" in said and "or add --redo dedup" in said
    said = tells(*run, "clean=null", "--redo", "dedup", "--shards", "9", capsys=capsys)
    assert "ask for fewer shards, or make smaller files with extract --file-characters" in said
    again = ["clean=null", "--shards", "2", "--file-characters", "9000"]
    assert "or add --redo extract" in tells(*run, *again, capsys=capsys)
    assert main([*map(str, run), *again, "--redo", "extract"]) == 0


def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_space(
    texts: Path, tmpfs: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmpfs("size=100k")
    arguments = ["run", "folder", f"input={texts}", "tokenizer.vocab_size=320", "split.valid=0.3"]
    arguments += ["--out", str(out / "run")]
    assert main(arguments) == 1
    assert "no space left; free some, and the same command resumes from here" in capsys.readouterr().err
    subprocess.run(["mount", "-o", "remount,size=9m", str(out)], check=True)
    assert main(arguments) == 0


def test_a_folder_that_cannot_be_written_is_named(
    texts: Path, tmpfs: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmpfs("ro")
    assert main(["extract", "--source", "text", str(texts), "--out", str(out / "corpus")]) == 1
    assert f"{out}/corpus: Read-only file system; give access to it, or choose another --out" in capsys.readouterr().err
