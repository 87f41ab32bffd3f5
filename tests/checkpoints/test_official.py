"""Checkpoints of fairseq's examples/linformer, made by the example itself, become ours with equal logits."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fairseq.models.roberta.model import RobertaClassificationHead, RobertaLMHead
from torch import Tensor, nn

from linformer_fairseq.checkpoints.checkpoint import build, read, symbols
from linformer_fairseq.checkpoints.official import from_official
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.official_example import SHARING, build_official_encoder

N, K, CHANNELS, VOCABULARY = 48, 12, 32, 60


class Example(nn.Module):
    """The example's model as its checkpoints name it."""

    def __init__(self, sharing: str, tied: bool) -> None:
        super().__init__()
        sizes = {"encoder_embed_dim": CHANNELS, "encoder_ffn_embed_dim": 64}
        sizes |= {"encoder_attention_heads": 4, "encoder_layers": 3}
        encoder = build_official_encoder(symbols(VOCABULARY), sharing, N, K, **sizes)
        weight = encoder.embed_tokens.weight if tied else None
        self.encoder = nn.ModuleDict({"sentence_encoder": encoder})
        self.encoder["lm_head"] = RobertaLMHead(CHANNELS, VOCABULARY, "gelu", weight=weight)
        self.classification_heads = nn.ModuleDict(
            {"topic": RobertaClassificationHead(CHANNELS, CHANNELS, 3, "tanh", 0.0)}
        )
        shared = SHARING[sharing]
        self.args = Namespace(
            arch="linformer_roberta_base",
            task="masked_lm",
            tokens_per_sample=N,
            max_positions=N,
            compressed=N // K,
            shared_kv_compressed=shared[0],
            shared_layer_kv_compressed=shared[1],
            freeze_compress=0,
            criterion="masked_lm",
            optimizer="adam",
            **sizes,
        )

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder["sentence_encoder"](tokens)["encoder_out"][0].transpose(0, 1)
        return self.encoder["lm_head"](features), self.classification_heads["topic"](features)


def example(sharing: str, tied: bool = True) -> Example:
    torch.manual_seed(1)
    model = Example(sharing, tied).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=1.0, std=0.2)
    return model


def save(model: Example, state: dict[str, Tensor], path: Path) -> None:
    history = [{"num_updates": 5, "criterion_name": "x", "optimizer_name": "x", "lr_scheduler_state": {}}]
    extra = {"train_iterator": {"epoch": 1}}
    content = {"args": model.args, "model": state, "optimizer_history": history, "extra_state": extra}
    torch.save({**content, "last_optimizer_state": None}, path)


@torch.no_grad()
def assert_same_logits(model: Example, path: Path, sharing: str) -> None:
    converted = from_official(read(path))
    assert (converted.updates, converted.model["projection_sharing"]) == (5, sharing)
    ours = build(converted)
    tokens = torch.randint(4, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(0))
    masked_lm, topic = model.logits(tokens)
    torch.testing.assert_close(ours(tokens)[0], masked_lm, rtol=0, atol=1e-5)
    found = ours(tokens, features_only=True, classification_head_name="topic")[0]
    torch.testing.assert_close(found, topic, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharing", list(SHARING))
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_equal(sharing: str, tied: bool, tmp_path: Path) -> None:
    model = example(sharing, tied)
    state = dict(model.state_dict(), **{"encoder.version": torch.tensor(2)})
    save(model, state, tmp_path / "a.pt")
    assert_same_logits(model, tmp_path / "a.pt", sharing)


def test_in_old_checkpoints_of_layerwise_sharing_each_layer_has_its_own(tmp_path: Path) -> None:
    """Before `version` 2: own matrices, a copy of each under another name, and an untied output matrix."""
    model = example("key-value", tied=False)
    model.args.shared_layer_kv_compressed = 1
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("version")}
    for index in range(3):
        layer = f"encoder.sentence_encoder.layers.{index}."
        state[f"{layer}shared_compress_layer.weight"] = state[f"{layer}self_attn.compress_k.weight"]
        state[f"{layer}shared_compress_layer.bias"] = torch.ones(K)
    save(model, state, tmp_path / "a.pt")
    assert_same_logits(model, tmp_path / "a.pt", "key-value")


def test_names_of_earlier_years_are_understood(tmp_path: Path) -> None:
    model = example("layerwise")
    old: dict[str, Tensor] = {}
    state = model.state_dict()
    for key, value in state.items():
        if ".q_proj." in key:
            parts = [state[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            old[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif ".k_proj." not in key and ".v_proj." not in key:
            old[key.replace("layernorm_embedding", "emb_layer_norm").replace("encoder.s", "decoder.s", 1)] = value
    save(model, old, tmp_path / "a.pt")
    assert_same_logits(model, tmp_path / "a.pt", "layerwise")


def test_other_models_are_refused(tmp_path: Path) -> None:
    model = example("layerwise")
    state = {key: value for key, value in model.state_dict().items() if "compress" not in key}
    save(model, state, tmp_path / "a.pt")
    with pytest.raises(UsageError, match="not a checkpoint of fairseq's examples/linformer: it has no compress_k"):
        from_official(read(tmp_path / "a.pt"))


@pytest.mark.parametrize("sharing", ["headwise", "layerwise"])
def test_every_parameter_is_missed(sharing: str, tmp_path: Path) -> None:
    model = example(sharing)
    save(model, model.state_dict(), tmp_path / "a.pt")
    whole = read(tmp_path / "a.pt")
    from_official(whole)
    for key in whole.state:
        # The layers hold what is kept of a shared matrix; the other copies, and biases never added, are not needed.
        if not key.endswith("version") and "compress" not in key:
            with pytest.raises(UsageError, match="not fit|not a whole|not one of this project's"):
                from_official(replace(whole, state={k: v for k, v in whole.state.items() if k != key}))
