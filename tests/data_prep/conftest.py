"""One small corpus and one tokenizer for all tests of this folder."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from data_prep.config import ReadingConfig, SourceConfig, SplitConfig, TokenizerConfig
from data_prep.extract import extract
from data_prep.split import split
from data_prep.tokenizer import make_tokenizer

PACKAGES = ("asyncio", "email", "logging", "unittest", "concurrent", "importlib")
FILE_CHARACTERS = 60_000


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Docstrings of some standard packages, in several files."""
    folder = tmp_path_factory.mktemp("data") / "corpus"
    stdlib = Path(sysconfig.get_path("stdlib"))
    source = SourceConfig("docstrings", [str(stdlib / name) for name in PACKAGES])
    extract(source, folder, ReadingConfig(file_characters=FILE_CHARACTERS))
    return folder


@pytest.fixture(scope="session")
def splits(corpus: Path) -> Path:
    """`corpus`, split into train, valid and test."""
    folder = corpus.with_name("split")
    split(corpus, folder, SplitConfig(valid=0.1, test=0.1))
    return folder


@pytest.fixture(scope="session")
def tokenizer(corpus: Path) -> Path:
    """A model of 512 symbols trained on `corpus`."""
    folder = corpus.with_name("tokenizer")
    make_tokenizer(corpus, folder, TokenizerConfig(512))
    return folder
