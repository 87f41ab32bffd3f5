"""Small models and tokenizers of every kind for transformers."""

from __future__ import annotations

import inspect
import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch

try:
    import torchaudio  # noqa: F401
except (ImportError, OSError):
    # fairseq brings a CUDA build of it, which cannot be loaded beside a CPU build of torch; transformers would try.
    sys.modules["torchaudio"] = None  # type: ignore[assignment]

from linformer_fairseq.hf.configuration_linformer import LinformerConfig

MakeConfig = Callable[..., LinformerConfig]
SPECIALS = 5  # <s>, <pad>, </s>, <unk>, <mask>


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """Makes a small configuration: `make_config(projection="conv", num_labels=3)`."""
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 32, "projected_length": 8}
    return lambda **settings: LinformerConfig(**{**sizes, **settings})


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Two sentences of ids, the second one padded; (2, 20)."""
    ids = torch.randint(4, 60, (2, 20), generator=torch.Generator().manual_seed(3))
    ids[:, 0] = 0
    ids[1, 12:] = 1
    return {"input_ids": ids, "attention_mask": ids.ne(1).long()}


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
