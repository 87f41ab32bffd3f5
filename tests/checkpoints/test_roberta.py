"""RoBERTas of fairseq and Hugging Face, made by their own code, give equal logits as our exact attention."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.roberta import RobertaModel
from fairseq.models.roberta.model import RobertaEncoder
from torch import Tensor, nn

from linformer_fairseq.checkpoints.checkpoint import PAD, build, encoder_config, symbols, write
from linformer_fairseq.checkpoints.hf_encoders import from_hf_encoder
from linformer_fairseq.checkpoints.roberta import from_roberta
from linformer_fairseq.errors import UsageError

VOCABULARY = 60
N = 40
# layers, channels, inner channels, heads
SHAPES = [(1, 16, 24, 2), (3, 32, 64, 4), (2, 48, 48, 6)]
CHANGES: list[dict[str, Any]] = [
    {},
    {"encoder_normalize_before": True},
    {"untie_weights_roberta": True},
    {"activation_fn": "relu"},
]


def shake(model: nn.Module) -> None:
    """Makes every vector parameter count, and features large enough to see a wrong one."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.3)
        else:
            nn.init.normal_(parameter, std=0.15)
    model.eval()


def ids() -> Tensor:
    """(3, 30), one of them padded by 10."""
    tokens = torch.randint(4, VOCABULARY - 1, (3, 30), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    tokens[1, 20:] = PAD
    return tokens


def assert_same(found: Tensor, expected: Tensor, tokens: Tensor) -> None:
    """At real tokens, to 1e-5."""
    real = tokens.ne(PAD)
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-5)


def fairseq_roberta(
    shape: tuple[int, int, int, int] = SHAPES[1], arch: str = "roberta", **changes: Any
) -> RobertaModel:
    torch.manual_seed(1)
    names = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads")
    args = Namespace(arch=arch, task="masked_lm", criterion="masked_lm", optimizer="adam", tokens_per_sample=N)
    args.__dict__ |= {"max_positions": N, **dict(zip(names, shape, strict=True)), **changes}
    complete = Namespace(**vars(args))
    ARCH_CONFIG_REGISTRY[arch](complete)
    model = RobertaModel(complete, RobertaEncoder(complete, symbols(VOCABULARY)))
    model.register_classification_head("topic", num_classes=3)
    shake(model)
    model.given = args
    return model


def save(model: RobertaModel, path: Path, state: dict[str, Tensor] | None = None) -> Path:
    history = [{"num_updates": 5, "criterion_name": "x", "optimizer_name": "x", "lr_scheduler_state": {}}]
    content = {"args": model.given, "model": state or model.state_dict(), "optimizer_history": history}
    torch.save({**content, "extra_state": {"train_iterator": {"epoch": 1}}, "last_optimizer_state": None}, path)
    return path


@torch.no_grad()
def assert_same_as_fairseq(model: RobertaModel, path: Path) -> None:
    converted = from_roberta(path)
    assert converted.updates == 5 and encoder_config(converted).attention == "exact"
    ours, tokens = build(converted), ids()
    assert_same(ours(tokens)[0], model(tokens)[0], tokens)
    head = {"features_only": True, "classification_head_name": "topic"}
    torch.testing.assert_close(ours(tokens, **head)[0], model(tokens, **head)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_fairseq_logits_are_equal(shape: tuple[int, int, int, int], changes: dict[str, Any], tmp_path: Path) -> None:
    model = fairseq_roberta(shape, **changes)
    assert_same_as_fairseq(model, save(model, tmp_path / "a.pt"))


def test_fairseq_names_of_2019_are_understood(tmp_path: Path) -> None:
    """The published roberta.base: decoder, emb_layer_norm, fused in_proj."""
    model = fairseq_roberta(arch="roberta_base")
    state, old = model.state_dict(), {}
    for key, value in state.items():
        name = key.replace("layernorm_embedding", "emb_layer_norm").replace("encoder.s", "decoder.s", 1)
        name = name.replace("encoder.lm_head", "decoder.lm_head")
        if ".q_proj." in key:
            parts = [state[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            old[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif ".k_proj." not in key and ".v_proj." not in key:
            old[name] = value
    assert_same_as_fairseq(model, save(model, tmp_path / "a.pt", old))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "roberta_prenorm"}, "no layer norm over its embeddings"),
        ({"no_scale_embedding": False}, "scaled embeddings"),
        ({"activation_fn": "gelu_accurate"}, "its activation is gelu_accurate; only gelu and relu"),
    ],
)
def test_fairseq_models_that_compute_something_else_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = save(fairseq_roberta(**changes), tmp_path / "a.pt")
    with pytest.raises(UsageError, match=message):
        from_roberta(path)


def test_other_fairseq_files_are_refused(tmp_path: Path, make_checkpoint: Any) -> None:
    model = fairseq_roberta()
    model.given.arch = "transformer"
    with pytest.raises(UsageError, match="--arch transformer is not one of fairseq's roberta"):
        from_roberta(save(model, tmp_path / "a.pt"))
    model = fairseq_roberta()
    parts = {key: value for key, value in model.state_dict().items() if "fc1" not in key}
    with pytest.raises(UsageError, match="has no layers"):
        from_roberta(save(model, tmp_path / "a.pt", parts))
    parts = {key: value for key, value in model.state_dict().items() if "layers.1.fc2.bias" not in key}
    with pytest.raises(UsageError, match="do not fit its settings.*layers.1.fc2.bias"):
        from_roberta(save(model, tmp_path / "a.pt", parts))
    write(make_checkpoint(), tmp_path / "b.pt")
    with pytest.raises(UsageError, match="already a checkpoint of this project"):
        from_roberta(tmp_path / "b.pt")


def test_our_own_exact_attention_is_taken_as_it_is(tmp_path: Path, make_checkpoint: Any) -> None:
    made = make_checkpoint(attention="exact", local_conv=3)
    write(made, tmp_path / "a.pt")
    found = from_roberta(tmp_path / "a.pt")
    assert found.model["local_conv"] == 3
    assert all(torch.equal(found.state[key], value) for key, value in made.state.items())


transformers = pytest.importorskip("transformers")


def hf_roberta(kind: str = "ForMaskedLM", shape: tuple[int, int, int, int] = SHAPES[1], **changes: Any) -> Any:
    torch.manual_seed(2)
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": N + 2, "layer_norm_eps": 1e-5, "type_vocab_size": 1}
    config = transformers.RobertaConfig(**sizes, **dict(zip(names, shape, strict=True)), **changes)
    model = getattr(transformers, f"Roberta{kind}")(config)
    shake(model)
    return model


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tied", [True, False])
def test_hf_logits_are_equal(shape: tuple[int, int, int, int], tied: bool, tmp_path: Path) -> None:
    model = hf_roberta(shape=shape, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    converted = from_roberta(tmp_path)
    assert encoder_config(converted).max_positions == N
    assert converted.model["untie_weights_roberta"] is not tied
    tokens = ids()
    assert_same(build(converted)(tokens)[0], model(tokens, tokens.ne(PAD)).logits, tokens)


@torch.no_grad()
@pytest.mark.parametrize("form", ["several safetensors", "bin"])
def test_hf_weights_in_other_forms(form: str, tmp_path: Path) -> None:
    model = hf_roberta()
    if form == "bin":
        model.config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert not (tmp_path / "model.safetensors").exists()
    tokens = ids()
    assert_same(build(from_hf_encoder(tmp_path))(tokens)[0], model(tokens, tokens.ne(PAD)).logits, tokens)


@torch.no_grad()
def test_hf_encoder_alone_gets_a_new_masked_lm_head(tmp_path: Path) -> None:
    model = hf_roberta("Model")
    model.save_pretrained(tmp_path)
    converted, tokens = from_hf_encoder(tmp_path), ids()
    features = build(converted)(tokens, features_only=True)[0]
    assert_same(features, model(tokens, tokens.ne(PAD)).last_hidden_state, tokens)
    assert converted.notes[-1]["new masked-LM head"] is True
    again = from_hf_encoder(tmp_path)
    assert all(torch.equal(again.state[key], value) for key, value in converted.state.items())


@torch.no_grad()
def test_hf_classification_head_gives_equal_scores(tmp_path: Path) -> None:
    model = hf_roberta("ForSequenceClassification", num_labels=3)
    model.save_pretrained(tmp_path)
    converted, tokens = from_hf_encoder(tmp_path), ids()
    assert converted.heads == ["sentence_classification_head"]
    found = build(converted)(tokens, features_only=True, classification_head_name=converted.heads[0])[0]
    torch.testing.assert_close(found, model(tokens, tokens.ne(PAD)).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "mpnet"},
            "config.json: a model of type 'mpnet' cannot be .*: it adds relative positions",
        ),
        ({"model_type": "deberta-v2"}, "it attends to relative positions; it must be bert, roberta, .* or camembert"),
        ({"model_type": "t5"}, "a model of type 't5' cannot be converted; it must be"),
        ({"auto_map": {"AutoModel": "modeling.Model"}}, "config.json: the model is code of its own"),
        ({"hidden_act": "gelu_new"}, "its activation is gelu_new; only gelu"),
        ({"hidden_act": "relu"}, "its activation is relu; only gelu"),
        ({"position_embedding_type": "relative_key"}, "config.json: its positions are relative_key; only absolute"),
        ({"is_decoder": True}, "only encoders"),
        ({"pad_token_id": 3}, "without a tokenizer its special symbols are unknown"),
        ({"num_attention_heads": 5}, "cannot be split"),
        ({"num_hidden_layers": 2}, "do not fit its settings"),
    ],
)
def test_other_hf_models_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    hf_roberta().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UsageError, match=message):
        from_hf_encoder(tmp_path)


def test_broken_hf_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no config.json"):
        from_hf_encoder(tmp_path)
    hf_roberta().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        from_hf_encoder(tmp_path)
    weights.unlink()
    with pytest.raises(UsageError, match="has neither model.safetensors nor pytorch_model.bin"):
        from_hf_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        from_hf_encoder(tmp_path)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    hf_roberta().config.save_pretrained(tmp_path)
    torch.save({"roberta.embeddings.word_embeddings.weight": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="might run foreign code"):
        from_hf_encoder(tmp_path)
    assert not (tmp_path / "touched").exists()
