"""One small corpus and one tokenizer for all tests of this folder."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from data_prep.extract import extract
from data_prep.tokenizer import train_tokenizer

PACKAGES = ("asyncio", "email", "logging", "unittest", "concurrent", "importlib")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Docstrings of some standard packages, in several row groups."""
    folder = tmp_path_factory.mktemp("data") / "corpus"
    stdlib = Path(sysconfig.get_path("stdlib"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_prep.corpus.ROW_GROUP_CHARACTERS", 60_000)
        extract("docstrings", [stdlib / name for name in PACKAGES], folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(corpus: Path) -> Path:
    """A model of 512 symbols trained on `corpus`."""
    folder = corpus.with_name("tokenizer")
    train_tokenizer(corpus, folder, 512)
    return folder
