"""The models under transformers: saving, training, checkpointing, precision, losses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from linformer_fairseq.hf.configuration_linformer import LinformerConfig
from linformer_fairseq.hf.modeling_linformer import (
    LinformerForMaskedLM,
    LinformerForSequenceClassification,
    LinformerModel,
)

MakeConfig = Callable[..., LinformerConfig]
Batch = dict[str, Tensor]
SETTINGS = [
    {"projection_sharing": "none", "local_conv": 3, "normalize_before": True},
    {"projection": "conv", "projection_sharing": "headwise", "tie_word_embeddings": False},
    {"projection": "max-pool", "projected_length": [16, 8]},
    {"attention": "exact"},
    {},
]


def test_configuration_and_encoder_say_the_same(make_config: MakeConfig) -> None:
    for settings in SETTINGS:
        config = make_config(**settings, layerdrop=0.25, activation_dropout=0.5, hidden_act="relu")
        assert LinformerConfig.of_encoder(config.encoder()).encoder() == config.encoder()
        assert LinformerConfig.from_dict(config.to_dict()).encoder() == config.encoder()
    with pytest.raises(ValueError, match="--projected-length 64"):
        make_config(projected_length=64)


@pytest.mark.parametrize("settings", SETTINGS)
def test_saved_and_loaded(make_config: MakeConfig, batch: Batch, tmp_path: Path, settings: dict[str, object]) -> None:
    model = LinformerForMaskedLM(make_config(**settings)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    again, loading = LinformerForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert torch.equal(model(**batch).logits, again(**batch).logits)
    tied = again.lm_head.decoder.weight is again.linformer.encoder.embed_tokens.weight
    assert tied == settings.get("tie_word_embeddings", True)
    base = LinformerModel.from_pretrained(tmp_path)
    assert torch.equal(base(**batch).last_hidden_state, model.linformer(**batch).last_hidden_state)


def test_parameters_that_no_file_had_start_as_new_ones(make_config: MakeConfig, tmp_path: Path) -> None:
    model = LinformerForMaskedLM(make_config(projection_sharing="key-value"))
    state = {key: value for key, value in model.state_dict().items() if ".E." not in key and "lm_head" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    again = LinformerForMaskedLM.from_pretrained(tmp_path)
    for layer in again.linformer.encoder.layers:
        rows = layer.self_attn.E.matrix().sum(1)
        assert torch.allclose(rows, torch.ones(8), atol=0.2) and layer.self_attn.E.lr_scale == torch.tensor(0.1)
    assert 0.01 < again.lm_head.dense.weight.std().item() < 0.03
    assert torch.equal(again.lm_head.layer_norm.weight, torch.ones(16))


def test_hidden_states_tuples_and_masks(make_config: MakeConfig, batch: Batch) -> None:
    model = LinformerModel(make_config()).eval()
    out = model(**batch, output_hidden_states=True)
    assert len(out.hidden_states) == 3 and torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert torch.equal(model(**batch, return_dict=False)[0], out.last_hidden_state)
    real = batch["attention_mask"].bool()
    other = batch["input_ids"].masked_fill(~real, 9)
    masked = model(other, batch["attention_mask"]).last_hidden_state
    assert torch.equal(masked[real], out.last_hidden_state[real])
    assert torch.equal(model(batch["input_ids"]).last_hidden_state, out.last_hidden_state)
    with pytest.raises(ValueError, match="masks tokens, not pairs"):
        model(batch["input_ids"], torch.ones(2, 1, 20, 20))
    with pytest.raises(ValueError, match="at most --max-positions 32; .* truncation=True"):
        model(torch.full((1, 33), 5))


def test_losses(make_config: MakeConfig, batch: Batch) -> None:
    targets = batch["input_ids"].masked_fill(torch.rand(2, 20) < 0.5, -100)
    out = LinformerForMaskedLM(make_config()).eval()(**batch, labels=targets)
    asked = targets.ne(-100)
    expected = -out.logits.log_softmax(-1)[asked].gather(1, targets[asked][:, None]).mean()
    torch.testing.assert_close(out.loss, expected)

    one = LinformerForSequenceClassification(make_config(num_labels=1)).eval()(**batch, labels=torch.tensor([1, 2]))
    torch.testing.assert_close(one.loss, (one.logits[:, 0] - torch.tensor([1.0, 2.0])).square().mean())

    model = LinformerForSequenceClassification(make_config(num_labels=3, classifier_act="linear")).eval()
    scores = model(**batch).logits
    chances = scores.log_softmax(-1)
    torch.testing.assert_close(model(**batch, labels=torch.tensor([2, 0])).loss, -(chances[0, 2] + chances[1, 0]) / 2)
    several = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    expected = -(several * scores.sigmoid().log() + (1 - several) * (1 - scores.sigmoid()).log()).mean()
    torch.testing.assert_close(model(**batch, labels=several).loss, expected)
    model.config.problem_type = "regression"
    torch.testing.assert_close(model(**batch, labels=several).loss, (scores - several).square().mean())


def test_gradient_checkpointing_gives_the_same_gradients(make_config: MakeConfig, batch: Batch) -> None:
    model = LinformerForMaskedLM(make_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).train()
    twin = copy.deepcopy(model)
    twin.activation_checkpointing_enable()
    assert twin.is_activation_checkpointing and not model.is_activation_checkpointing
    for each in (model, twin):
        each(**batch, labels=batch["input_ids"]).loss.backward()
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
    twin.activation_checkpointing_disable()
    assert not twin.linformer.encoder.cfg.checkpoint_activations


@pytest.mark.parametrize("settings", SETTINGS)
def test_bfloat16(make_config: MakeConfig, batch: Batch, tmp_path: Path, settings: dict[str, object]) -> None:
    model = LinformerForMaskedLM(make_config(**settings)).eval()
    model.save_pretrained(tmp_path)
    half = LinformerForMaskedLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    out = half(**batch, labels=batch["input_ids"])
    assert out.logits.dtype == torch.bfloat16 and out.loss.dtype == torch.float32
    torch.testing.assert_close(out.logits.float(), model(**batch).logits, atol=0.05, rtol=0.1)


def test_trainer(make_config: MakeConfig, batch: Batch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = make_config(num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = LinformerForSequenceClassification(config)
    rows = [{**{key: value[i % 2] for key, value in batch.items()}, "labels": i % 2} for i in range(8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        activation_checkpointing=True,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
    )
    before = copy.deepcopy(model.state_dict())
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    assert model.linformer.encoder.cfg.checkpoint_activations
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == 3 and losses[-1] < losses[0]
    unchanged = [key for key, value in model.state_dict().items() if torch.equal(value, before[key])]
    assert all(key.endswith("lr_scale") for key in unchanged)
    saved = LinformerForSequenceClassification.from_pretrained(tmp_path / "checkpoint-3")
    assert torch.equal(saved(**batch).logits, model.eval()(**batch).logits)


def test_vocabulary_grows(make_config: MakeConfig, batch: Batch) -> None:
    model = LinformerForMaskedLM(make_config()).eval()
    before = model(**batch).logits
    model.resize_token_embeddings(64)
    after = model(**batch).logits
    assert after.shape[-1] == 64 and torch.equal(after[..., :60], before)


def test_what_programs_for_roberta_do(make_config: MakeConfig, batch: Batch, tmp_path: Path) -> None:
    model = LinformerModel(make_config()).eval()
    expected = model(**batch).last_hidden_state
    model.save_pretrained(tmp_path)
    again = LinformerModel.from_pretrained(tmp_path, add_pooling_layer=False)
    again.set_input_embeddings(torch.nn.Sequential(again.get_input_embeddings()))
    again.set_attn_implementation("eager")
    again.config.output_attentions = True
    out = again(**batch)
    assert torch.equal(out.last_hidden_state, expected) and len(out.attentions) == 2
    with pytest.raises(ValueError, match="has no pooling layer"):
        LinformerModel(make_config(), add_pooling_layer=True)


def test_keywords_of_robertas_configuration(make_config: MakeConfig, batch: Batch, tmp_path: Path) -> None:
    LinformerForSequenceClassification(make_config()).save_pretrained(tmp_path)
    off = {"use_cache": False, "is_decoder": False, "add_cross_attention": False, "classifier_dropout": None}
    model = LinformerForSequenceClassification.from_pretrained(tmp_path, **off, hidden_dropout_prob=0.25)
    assert model.classifier.dropout.p == 0.25 and torch.isfinite(model(**batch).logits).all()
    assert not LinformerModel.from_pretrained(tmp_path, use_cache=False).config.use_cache
    for wrong in ("is_decoder", "add_cross_attention"):
        with pytest.raises(ValueError, match="a Linformer is an encoder, so leave both out"):
            LinformerModel.from_pretrained(tmp_path, **{wrong: True})
