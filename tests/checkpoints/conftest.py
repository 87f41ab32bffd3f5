"""Small checkpoints of every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, complete_settings, symbols
from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel

SMALL: dict[str, Any] = {
    "_name": "linformer_roberta",
    "max_positions": 32,
    "projected_length": "8",
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
}
VOCABULARY = 40
MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture(scope="session")
def make_checkpoint() -> MakeCheckpoint:
    """Makes a checkpoint of random parameters: `make_checkpoint(seed=1, heads={"topic": 3}, max_positions=64)`."""

    def make(seed: int = 0, heads: dict[str, int] | None = None, **settings: Any) -> Checkpoint:
        torch.manual_seed(seed)
        model = {**SMALL, **settings}
        complete = complete_settings(model)
        built = LinformerRobertaModel(complete, LinformerRobertaEncoder(complete, symbols(VOCABULARY)))
        for name, classes in (heads or {}).items():
            built.register_classification_head(name, num_classes=classes)
        for parameter in built.parameters():  # fairseq starts biases at zero, which would hide a lost one
            if parameter.requires_grad and parameter.dim() == 1:
                torch.nn.init.normal_(parameter, std=0.1)
        task = {"_name": "masked_lm", "data": "data-bin", "tokens_per_sample": model["max_positions"]}
        return Checkpoint(built.state_dict(), model, task, 7)

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    """Two sentences of ids, the second one padded; (2, 20)."""
    ids = torch.randint(4, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(3))
    ids[:, 0] = 0
    ids[0, -1] = ids[1, 11] = 2
    ids[1, 12:] = 1
    return ids
