"""PEFT, accelerate and torch.ao change layers from outside: the plain model's numbers, and gradients that belong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from linformer_fairseq.hf.configuration_linformer import LinformerConfig
from linformer_fairseq.hf.modeling_linformer import LinformerForSequenceClassification, LinformerModel

MakeConfig = Callable[..., LinformerConfig]
Batch = dict[str, Tensor]
LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"projection_sharing": "none", "local_conv": 3},
    {"projection": "adaptive", "local_window": 2},
    {"projection": "conv", "projection_sharing": "headwise"},
    {"attention": "exact"},
    {"attention": "none", "local_conv": 3},
]
each_kind = pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(map(str, settings.values())))


def model_of(config: LinformerConfig, kind: Any = LinformerModel) -> Any:
    torch.manual_seed(0)
    model = kind(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def features(model: Any, batch: Batch) -> Tensor:
    return model(**batch).last_hidden_state[batch["attention_mask"].bool()]


@each_kind
@pytest.mark.parametrize("method", ["lora", "dora", "ia3"])
def test_an_adapter_counts_as_much_as_when_it_is_merged(
    make_config: MakeConfig, batch: Batch, method: str, settings: dict[str, Any]
) -> None:
    peft = pytest.importorskip("peft", reason="the extra dev has peft")
    targets = [name for name in LAYERS if settings.get("attention") != "none" or name not in ("q_proj", "k_proj")]
    if method == "ia3":
        adapter = peft.IA3Config(target_modules=targets, feedforward_modules=["fc2"], init_ia3_weights=False)
    else:
        adapter = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, use_dora=method == "dora")
    model = model_of(make_config(**settings, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    plain = features(model, batch).detach()
    adapted = peft.get_peft_model(model, adapter)
    for name, parameter in adapted.named_parameters():
        if "ia3" in name:
            torch.nn.init.normal_(parameter, mean=1, std=0.3)
    unmerged = features(adapted, batch).detach()
    assert (unmerged - plain).abs().max() > 0.01
    adapted.merge_adapter()
    torch.testing.assert_close(features(adapted, batch), unmerged, atol=1e-4, rtol=1e-4)
    adapted.unmerge_adapter()
    adapted.train()
    trained = features(adapted, batch)
    torch.testing.assert_close(trained, unmerged, atol=1e-4, rtol=1e-4)
    trained.square().sum().backward()
    parameters = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert parameters and all("lora_" in name or "ia3_" in name for name in parameters)
    assert [name for name, p in parameters.items() if p.grad is None or not p.grad.any()] == []


@each_kind
def test_offloaded_to_cpu_and_to_disk(
    make_config: MakeConfig, batch: Batch, tmp_path: Path, settings: dict[str, Any]
) -> None:
    accelerate = pytest.importorskip("accelerate", reason="the extra dev has accelerate")
    model = model_of(make_config(**settings))
    expected = features(model, batch).detach()
    cpu = torch.device("cpu")
    on_disk = copy.deepcopy(model)
    accelerate.cpu_offload(model, execution_device=cpu)
    accelerate.disk_offload(on_disk, str(tmp_path), execution_device=cpu)
    for each in (model, on_disk):
        assert any(parameter.is_meta for parameter in each.parameters())
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients):
                torch.testing.assert_close(features(each, batch), expected, atol=1e-5, rtol=1e-5)


def test_the_one_projection_of_all_layers_is_offloaded(make_config: MakeConfig, batch: Batch, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the extra dev has accelerate")
    model = model_of(make_config())
    model.save_pretrained(tmp_path / "model")
    places = {f"encoder.{name}": "cpu" for name, _ in model.encoder.named_children()} | {"encoder.E": "disk"}
    folders = {"pretrained_model_name_or_path": tmp_path / "model", "offload_folder": tmp_path / "offloaded"}
    offloaded = LinformerModel.from_pretrained(**folders, device_map=places)
    assert offloaded.encoder.E.weight.is_meta
    torch.testing.assert_close(features(offloaded, batch), features(model, batch))


@each_kind
def test_quantized_dynamically(make_config: MakeConfig, batch: Batch, settings: dict[str, Any]) -> None:
    model = model_of(make_config(**settings, num_labels=3), LinformerForSequenceClassification)
    expected = model(**batch).logits
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    assert not any(type(module) is torch.nn.Linear for module in quantized.modules())
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            found = quantized(**batch).logits
        assert (found - expected).norm() < 0.1 * expected.norm()


@each_kind
def test_prompts_are_learnt(make_config: MakeConfig, batch: Batch, settings: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft", reason="the extra dev has peft")
    config = make_config(**settings, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = model_of(config, LinformerForSequenceClassification)
    prompt = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)
    adapted = peft.get_peft_model(model, prompt).eval()
    embedding = model.get_input_embeddings()
    given = adapted.get_prompt(batch_size=2)
    expected = model(
        inputs_embeds=torch.cat([given, embedding(batch["input_ids"])], 1),
        attention_mask=torch.cat([torch.ones(2, 4, dtype=torch.long), batch["attention_mask"]], 1),
    ).logits
    out = adapted(**batch, labels=torch.tensor([0, 2]))
    torch.testing.assert_close(out.logits, expected)
    out.loss.backward()
    learnt = [name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("prompt_encoder" in name for name in learnt)
    assert all("prompt_encoder" in name or "classifier" in name for name in learnt)


@each_kind
def test_gradients_of_each_text_by_torch_func(make_config: MakeConfig, batch: Batch, settings: dict[str, Any]) -> None:
    model = model_of(make_config(**settings, num_labels=3), LinformerForSequenceClassification)
    parameters = dict(model.named_parameters())

    def score(parameters: dict[str, Tensor], ids: Tensor, mask: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (ids[None], mask[None])).logits.square().sum()

    found = torch.func.vmap(torch.func.grad(score), in_dims=(None, 0, 0))(parameters, *batch.values())
    for i in range(2):
        model.zero_grad()
        score(parameters, batch["input_ids"][i], batch["attention_mask"][i]).backward()
        for name, parameter in parameters.items():
            torch.testing.assert_close(found[name][i], parameter.grad, atol=1e-4, rtol=1e-3)
