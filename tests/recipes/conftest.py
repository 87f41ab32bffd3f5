"""A tokenizer folder and a small untrained checkpoint that goes with it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from data_prep.config import TokenizerConfig
from data_prep.corpus import Document, write_file
from data_prep.tokenizer import make_tokenizer
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, complete_settings, symbols, write
from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel

WORDS = "the a river garden child teacher book city winter letter good bad warm cold likes sees reads".split()
VOCABULARY = 320


def sentence(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dict.txt and sentencepiece.model of 320 symbols."""
    folder = tmp_path_factory.mktemp("tokenizer")
    chance = random.Random(0)
    rare = ["".join(chance.choices("aeioulmnrst", k=chance.randint(3, 8))) for _ in range(600)]
    text = "\n".join(f"{sentence(chance, 12)} {' '.join(chance.sample(rare, 8))}" for _ in range(400))
    write_file([Document("1", "text", "1", text)], folder / "corpus/a.parquet")
    make_tokenizer(folder / "corpus", folder / "tokenizer", TokenizerConfig(VOCABULARY))
    return folder / "tokenizer"


@pytest.fixture(scope="session")
def checkpoint(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained linformer_roberta_tiny of 64 positions."""
    model = {"_name": "linformer_roberta_tiny", "max_positions": 64, "projected_length": "16", "dropout": 0.0}
    settings = complete_settings(model)
    torch.manual_seed(0)
    built = LinformerRobertaModel(settings, LinformerRobertaEncoder(settings, symbols(VOCABULARY)))
    path = tmp_path_factory.mktemp("checkpoint") / "pretrained.pt"
    write(Checkpoint(built.state_dict(), model, {"_name": "masked_lm", "data": str(tokenizer)}, 7), path)
    return path
