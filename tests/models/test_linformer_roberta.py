"""The model as fairseq's own programs use it."""

from __future__ import annotations

import logging
from argparse import Namespace
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from fairseq.data import Dictionary
from fairseq.models import ARCH_MODEL_REGISTRY, build_model
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from linformer_fairseq.layers import LinformerEncoder
from linformer_fairseq.models.architectures import ARCHITECTURES, complete
from linformer_fairseq.models.config import encoder_config
from linformer_fairseq.models.linformer_roberta import LinformerRobertaModel, MaskedTokens
from linformer_fairseq.optim.muon import is_hidden

SMALL = {
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
}


class Task:
    """What a model asks of a task: its dictionary and its longest sample."""

    def __init__(self, positions: int = 64) -> None:
        self.source_dictionary = Dictionary()
        for i in range(59):
            self.source_dictionary.add_symbol(f"w{i}")
        self.positions = positions

    def max_positions(self) -> int:
        return self.positions


def build(positions: int = 64, arch: str = "linformer_roberta", **settings: Any) -> LinformerRobertaModel:
    cfg = OmegaConf.create({"_name": arch, **SMALL, **settings})
    model = build_model(cfg, Task(positions))
    assert isinstance(model, LinformerRobertaModel)
    return model


def test_every_architecture_of_the_table_is_known_to_fairseq() -> None:
    assert set(ARCHITECTURES) <= set(ARCH_MODEL_REGISTRY)
    for n, k in ((512, 128), (512, 256), (1024, 256), (4096, 256)):
        named = ARCHITECTURES[f"linformer_roberta_base_n{n}_k{k}"]
        assert (named["max_positions"], named["projected_length"]) == (n, str(k))


@pytest.mark.parametrize(
    "arch, millions", [("tiny", 0.465), ("base", 85.1), ("large", 303.0), ("base_n4096_k256", 86.1)]
)
def test_sizes_without_embeddings(arch: str, millions: float) -> None:
    cfg = OmegaConf.create({"_name": f"linformer_roberta_{arch}"})
    complete(cfg, 512)
    with torch.device("meta"):
        encoder = LinformerEncoder(encoder_config(cfg, 60, 1))
    count = sum(p.numel() for name, p in encoder.named_parameters() if not name.startswith("embed_"))
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("positions, expected", [(512, 128), (1024, 256), (4096, 256), (64, 16)])
def test_without_a_projected_length_k_is_a_quarter_but_at_most_256(positions: int, expected: int) -> None:
    assert build(positions).encoder.cfg.lengths == (expected, expected)


def test_positions_come_from_flag_then_architecture_then_task() -> None:
    assert build(64).encoder.max_positions() == 64
    assert build(64, max_positions=128).encoder.max_positions() == 128
    assert build(64, "linformer_roberta_base_n1024_k256").encoder.max_positions() == 1024


def test_samples_longer_than_the_model_reads_are_refused() -> None:
    with pytest.raises(ValueError, match="--tokens-per-sample.*--max-positions 32"):
        build(64, max_positions=32)


@pytest.mark.parametrize(
    "old, sharing, k",
    [
        ({"compressed": 8}, "headwise", 8),
        ({"shared_kv_compressed": 1}, "key-value", 16),
        ({"compressed": 2, "shared_kv_compressed": 1, "shared_layer_kv_compressed": 1}, "layerwise", 32),
    ],
)
def test_flags_of_fairseqs_example_are_understood(
    old: dict[str, int], sharing: str, k: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        cfg = build(64, **old, freeze_compress=1).encoder.cfg
    assert (cfg.sharing, cfg.lengths[0], cfg.freeze_projection) == (sharing, k, True)
    assert f"--projected-length {k} --projection-sharing {sharing} --freeze-projection" in caplog.text


def test_an_old_flag_beside_its_successor_is_refused() -> None:
    with pytest.raises(ValueError, match="keep --projected-length"):
        build(64, compressed=4, projected_length="16")


def test_the_saved_configuration_builds_the_same_model() -> None:
    cfg = OmegaConf.create({"_name": "linformer_roberta_base", **SMALL, "compressed": 8})
    first = build_model(cfg, Task())
    second = build_model(OmegaConf.create(OmegaConf.to_container(cfg)), Task())
    assert first.encoder.cfg == second.encoder.cfg
    second.load_state_dict(first.state_dict())


def test_a_roberta_checkpoint_lacks_only_e() -> None:
    roberta = build_model(Namespace(arch="roberta", max_positions=64, **SMALL), Task()).state_dict()
    ours = build()
    ours.upgrade_state_dict(roberta)
    missing = ours.load_state_dict(roberta, strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == [
        "encoder.sentence_encoder.E.weight",
        "encoder.sentence_encoder.E.lr_scale",
    ]


def test_muon_updates_the_first_layer_of_the_head_but_not_the_embeddings_that_end_it() -> None:
    head = build().encoder.lm_head
    assert is_hidden(head.dense.weight) and not is_hidden(head.weight)


def test_masked_lm_head_is_tied_unless_asked() -> None:
    tied, untied = build(), build(untie_weights_roberta=True)
    for model, same in ((tied, True), (untied, False)):
        encoder = model.encoder
        assert (encoder.lm_head.weight is encoder.sentence_encoder.embed_tokens.weight) is same


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**16), st.sampled_from((0.0, 0.15, 0.6, 1.0)))
def test_indices_lead_to_the_masked_tokens_in_order(batch: int, length: int, seed: int, share: float) -> None:
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < share
    values = torch.arange(batch * length).view(batch, length)
    masked = MaskedTokens.of(mask)
    assert masked.positions.shape == (batch, max(1, int(mask.sum(1).max())))
    assert torch.equal(values.flatten()[masked.flat], values[mask])
    assert torch.equal(values.gather(1, masked.positions).flatten()[masked.slots], values[mask])


@pytest.mark.parametrize("local_conv", (0, 3))
@pytest.mark.parametrize("pre_ln", (False, True))
@pytest.mark.parametrize("attention", ("linformer", "exact", "none"))
def test_head_and_last_layer_see_only_masked_tokens(attention: str, pre_ln: bool, local_conv: int) -> None:
    settings = {"attention": attention, "encoder_normalize_before": pre_ln, "local_conv": local_conv}
    model = build(**settings, dropout=0.0, attention_dropout=0.0)
    tokens = torch.randint(4, 60, (3, 20))
    tokens[2, 15:] = model.encoder.dictionary.pad()
    masked = (torch.rand(3, 20) < 0.3) & tokens.ne(model.encoder.dictionary.pad())
    seen = []
    last = model.encoder.sentence_encoder.layers[-1]
    last.final_layer_norm.register_forward_hook(lambda module, inputs, output: seen.append(output.size(1)))

    def computed(**arguments: Any) -> list[torch.Tensor]:
        model.zero_grad()
        logits, extra = model(tokens, **arguments)
        logits = logits if "masked_tokens" in arguments else logits[masked]
        logits.logsumexp(-1).sum().backward()
        return [logits.detach(), *(p.grad.clone() for p in model.parameters())]

    everything = computed()
    for arguments in ({}, {"return_all_hiddens": True}):
        some = computed(masked_tokens=masked, **arguments)
        torch.testing.assert_close(some, everything, rtol=1e-5, atol=1e-5)
    assert seen == [20, int(masked.sum(1).max()), 20]


def test_head_features_and_the_output_projection_make_the_logits() -> None:
    model = build().eval()
    tokens = torch.randint(4, 60, (3, 20))
    masked = torch.rand(3, 20) < 0.3
    for asked in ({}, {"masked_tokens": masked}, {"masked_tokens": MaskedTokens.of(masked)}):
        logits, _ = model(tokens, **asked)
        x, extra = model(tokens, **asked, head_features_only=True)
        weight, bias = extra["output_projection"]
        assert weight.data_ptr() == model.encoder.lm_head.weight.data_ptr()
        torch.testing.assert_close(torch.nn.functional.linear(x, weight, bias), logits)


def test_features_hidden_states_and_classification() -> None:
    model = build().eval()
    model.register_classification_head("topic", num_classes=3)
    tokens = torch.randint(4, 60, (3, 20))
    features, extra = model(tokens, features_only=True, return_all_hiddens=True)
    assert [h.shape for h in extra["inner_states"]] == [(20, 3, 16)] * 3  # fairseq has time first
    torch.testing.assert_close(extra["inner_states"][-1].transpose(0, 1), features)
    scores, _ = model(tokens, classification_head_name="topic")
    torch.testing.assert_close(scores, model.classification_heads["topic"](features))
    # Of the last layer only the token that the head reads is computed.
    seen: list[int] = []
    last = model.encoder.sentence_encoder.layers[-1]
    last.final_layer_norm.register_forward_hook(lambda module, inputs, output: seen.append(output.size(1)))
    model(tokens, classification_head_name="topic")
    _, extra = model(tokens, classification_head_name="topic", return_all_hiddens=True)
    assert seen == [1, 20] and extra["inner_states"][-1].shape == (20, 3, 16)


@pytest.mark.parametrize("head", [None, "topic"])
def test_no_parameter_is_idle_under_ddp(head: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    model = build().train()
    model.register_classification_head("topic", num_classes=3)
    model.register_classification_head("other", num_classes=2)
    model(torch.randint(4, 60, (3, 20)), classification_head_name=head)[0].sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_head_for_tensor_cores_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16, as on a GPU, the product has a multiple of 64 symbols, which nobody sees."""
    model = build()
    head, features = model.encoder.lm_head, torch.randn(3, 7, 16)
    names, expected = set(head.state_dict()), head(features)
    linear, symbols = functional.linear, []
    monkeypatch.setattr(functional, "linear", lambda x, w, *b: [symbols.append(len(w)), linear(x, w, *b)][1])
    low = head.half()(features.half())
    assert symbols[-1] % 64 == 0 and len(Task().source_dictionary) % 64
    assert low.dtype == torch.float16 and low.shape == expected.shape == (3, 7, len(Task().source_dictionary))
    torch.testing.assert_close(low.float(), expected, rtol=0.02, atol=0.02)
    masked = torch.rand(3, 7) < 0.5
    torch.testing.assert_close(head(features.half(), masked), low[masked])
    assert set(head.state_dict()) == names
