"""Small models for transformers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from linformer_fairseq.hf.configuration_linformer import LinformerConfig

MakeConfig = Callable[..., LinformerConfig]


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
