"""Every class and argument beside RoBERTa with the same parameters and exact attention; padding with every kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import RobertaConfig, Trainer, TrainingArguments

from linformer_fairseq.hf import modeling_linformer
from linformer_fairseq.hf.configuration_linformer import LinformerConfig

MakeConfig = Callable[..., LinformerConfig]
Batch = dict[str, Tensor]
HEADS = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
NAMES = {
    r"roberta\.embeddings\.word_embeddings": "linformer.encoder.embed_tokens",
    r"roberta\.embeddings\.position_embeddings": "linformer.encoder.embed_positions",
    r"roberta\.embeddings\.LayerNorm": "linformer.encoder.layernorm_embedding",
    r"roberta\.encoder\.layer\.(\d)\.attention\.self\.query": r"linformer.encoder.layers.\1.self_attn.q_proj",
    r"roberta\.encoder\.layer\.(\d)\.attention\.self\.key": r"linformer.encoder.layers.\1.self_attn.k_proj",
    r"roberta\.encoder\.layer\.(\d)\.attention\.self\.value": r"linformer.encoder.layers.\1.self_attn.v_proj",
    r"roberta\.encoder\.layer\.(\d)\.attention\.output\.dense": r"linformer.encoder.layers.\1.self_attn.out_proj",
    r"roberta\.encoder\.layer\.(\d)\.attention\.output\.LayerNorm": r"linformer.encoder.layers.\1.self_attn_layer_norm",
    r"roberta\.encoder\.layer\.(\d)\.intermediate\.dense": r"linformer.encoder.layers.\1.fc1",
    r"roberta\.encoder\.layer\.(\d)\.output\.dense": r"linformer.encoder.layers.\1.fc2",
    r"roberta\.encoder\.layer\.(\d)\.output\.LayerNorm": r"linformer.encoder.layers.\1.final_layer_norm",
}
LABELS: dict[str, dict[str, Any]] = {
    "MaskedLM": {"labels": torch.tensor([[5, -100] * 10, [-100, 7] * 10])},
    "SequenceClassification": {"labels": torch.tensor([2, 0])},
    "TokenClassification": {"labels": torch.tensor([[1, -100] * 10, [2, 0] * 10])},
    "QuestionAnswering": {"start_positions": torch.tensor([3, 99]), "end_positions": torch.tensor([5, 99])},
    "MultipleChoice": {"labels": torch.tensor([1])},
}


def pair(make_config: MakeConfig, head: str, **settings: Any) -> tuple[Any, Any]:
    """RoBERTa and ours, with the same random parameters."""
    config = make_config(
        attention="exact",
        num_labels=2 if head == "QuestionAnswering" else 3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **settings,
    )
    same = {name: getattr(config, name) for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_labels")}
    same |= {name: getattr(config, name) for name in ("num_attention_heads", "intermediate_size", "problem_type")}
    same |= {"max_position_embeddings": config.max_position_embeddings + 2, "type_vocab_size": 1}
    their_config = RobertaConfig(
        **same,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-5,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    theirs = getattr(transformers, f"RobertaFor{head}")(their_config).eval()
    ours = getattr(modeling_linformer, f"LinformerFor{head}")(config).eval()
    state = {}
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for key, value in theirs.state_dict().items():
        if "token_type" in key or "_ids" in key:
            continue
        for their_name, our_name in NAMES.items():
            key = re.sub(rf"^{their_name}\.", f"{our_name}.", key)
        if key.startswith(("roberta.pooler.dense.", "classifier.")) and head == "MultipleChoice":
            key = (
                key.replace("roberta.pooler.", "classifier.") if "pooler" in key else f"classifier.out_proj.{key[11:]}"
            )
        if key != "lm_head.bias":
            state[key] = value
    types = theirs.roberta.embeddings.token_type_embeddings.weight[0]
    state["linformer.encoder.embed_positions.weight"] = state["linformer.encoder.embed_positions.weight"] + types
    ours.load_state_dict(state)
    return theirs, ours


@pytest.mark.parametrize("head", HEADS)
def test_each_head_and_argument_gives_what_robertas_gives(make_config: MakeConfig, batch: Batch, head: str) -> None:
    theirs, ours = pair(make_config, head)
    real = batch["attention_mask"].bool()
    if head == "MultipleChoice":
        batch = {name: value.unsqueeze(0) for name, value in batch.items()}
    inputs = [
        batch,
        {**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])},
        {**batch, "position_ids": batch["attention_mask"].cumsum(-1).clamp(max=15) + 1},
        {
            "attention_mask": batch["attention_mask"],
            "inputs_embeds": ours.get_input_embeddings()(batch["input_ids"]),
            "position_ids": batch["attention_mask"].cumsum(-1) * batch["attention_mask"] + 1,
        },
    ]
    wanted = {"output_hidden_states": True, "output_attentions": True}
    for given in inputs:
        expected, found = theirs(**given, **LABELS[head], **wanted), ours(**given, **LABELS[head], **wanted)
        torch.testing.assert_close(found.loss, expected.loss, atol=1e-4, rtol=1e-4)
        assert list(found.keys()) == list(expected.keys())
        scores = [name for name in found if name.endswith("logits")]
        for name in scores:
            one, two = found[name], expected[name]
            if head in ("MaskedLM", "TokenClassification", "QuestionAnswering"):
                one, two = one[real], two[real]
            torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
        for one, two in zip(found.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(one[real], two[real], atol=1e-4, rtol=1e-4)
        for one, two in zip(found.attentions, expected.attentions, strict=True):
            torch.testing.assert_close(one.transpose(1, 2)[real], two.transpose(1, 2)[real], atol=1e-4, rtol=1e-4)
    shown = ours(**batch, return_dict=False)
    assert isinstance(shown, tuple) and torch.equal(shown[0], ours(**batch)[0])


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"num_labels": 1}, torch.tensor([0.5, 2.0])),
        ({"problem_type": "regression"}, torch.tensor([[0.5, 2.0, 1.0], [1.0, 0.0, 3.0]])),
        ({"problem_type": "multi_label_classification"}, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])),
        ({}, torch.tensor([2, 1])),
    ],
)
def test_each_kind_of_label_has_robertas_loss(
    make_config: MakeConfig, batch: Batch, settings: dict[str, Any], labels: Tensor
) -> None:
    make = make_config if "num_labels" not in settings else lambda **others: make_config(**{**others, **settings})
    theirs, ours = pair(make, "SequenceClassification", **{k: v for k, v in settings.items() if k == "problem_type"})
    torch.testing.assert_close(ours(**batch, labels=labels).loss, theirs(**batch, labels=labels).loss)


def test_wrong_inputs_are_refused(make_config: MakeConfig, batch: Batch) -> None:
    model = modeling_linformer.LinformerModel(make_config())
    embedded = model.get_input_embeddings()(batch["input_ids"])
    for wrong in ({}, {"input_ids": batch["input_ids"], "inputs_embeds": embedded}):
        with pytest.raises(ValueError, match="give either input_ids or inputs_embeds"):
            model(**wrong)
    with pytest.raises(ValueError, match="token_type_ids are not all 0"):
        model(**batch, token_type_ids=torch.ones_like(batch["input_ids"]))


@pytest.mark.parametrize("head", HEADS[:3])
def test_accumulated_losses_are_that_of_all_at_once(
    make_config: MakeConfig, batch: Batch, head: str, tmp_path: Path
) -> None:
    model = getattr(modeling_linformer, f"LinformerFor{head}")(make_config(num_labels=3)).eval()
    rows = {**batch, **LABELS[head]}
    count = (rows["labels"] != -100).sum()
    each = [model(**{k: v[i : i + 1] for k, v in rows.items()}, num_items_in_batch=count).loss for i in range(2)]
    torch.testing.assert_close(each[0] + each[1], model(**rows).loss)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    assert Trainer(model, arguments).model_accepts_loss_kwargs


KINDS: list[dict[str, Any]] = [
    {},
    {"projection_sharing": "none", "local_conv": 3},
    {"projection": "adaptive"},
    {"projection": "adaptive", "local_window": 2},
    {"local_window": 2},
    {"projection": "max-pool"},
    {"attention": "local", "local_window": 2},
    {"attention": "none", "local_conv": 3},
]


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: ",".join(map(str, settings.values())))
@pytest.mark.parametrize("n", [20, 6])  # more and fewer tokens than slots
@torch.no_grad()
def test_pads_may_stand_anywhere(make_config: MakeConfig, settings: dict[str, Any], n: int) -> None:
    torch.manual_seed(0)
    config = make_config(**settings, num_labels=3)
    model = modeling_linformer.LinformerModel(config).eval()
    classifier = modeling_linformer.LinformerForSequenceClassification(config).eval()
    for parameter in [*model.parameters(), *classifier.parameters()]:
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(4, 60, (2, n))
    right, left, within = (torch.ones(2, n, dtype=torch.long) for _ in range(3))
    right[1, -3:] = left[1, :3] = within[1, 1:4] = 0
    wanted = {"output_hidden_states": True, "output_attentions": True}
    real = ids[1, :-3]
    expected = model(torch.where(right.bool(), ids, 1), right, **wanted)
    scores = classifier(torch.where(right.bool(), ids, 1), right).logits
    for mask in (left, within):
        moved = ids.clone()
        moved[1] = 1
        moved[1, mask[1].bool()] = real
        for given in ({"input_ids": moved}, {"inputs_embeds": model.get_input_embeddings()(moved)}):
            found = model(**given, attention_mask=mask, **wanted)
            positions = torch.arange(n)[None] + 5
            once = model(**given, attention_mask=mask, position_ids=positions).last_hidden_state
            each = model(**given, attention_mask=mask, position_ids=positions.repeat(2, 1)).last_hidden_state
            assert torch.equal(once, each)
            for one, two in zip(found.hidden_states, expected.hidden_states, strict=True):
                torch.testing.assert_close(one[1, mask[1].bool()], two[1, :-3])
            for one, two in zip(found.attentions, expected.attentions, strict=True):
                seen = one[1][:, mask[1].bool()]
                tokens = settings.get("attention") == "local" or seen.size(-1) == n or "local_window" in settings
                if tokens and seen.size(-1) >= n:  # the last n are tokens
                    front = seen.size(-1) - n
                    order = [*range(front), *(front + torch.argsort(1 - mask[1], stable=True)).tolist()]
                    seen = seen[..., order]
                torch.testing.assert_close(seen, two[1][:, :-3])
                assert seen.size(-1) == 0 or torch.allclose(seen.sum(-1), torch.ones(()))
        torch.testing.assert_close(classifier(moved, mask).logits, scores)


@torch.no_grad()
def test_a_graph_serves_pads_on_either_side(make_config: MakeConfig, batch: Batch) -> None:
    model = modeling_linformer.LinformerForSequenceClassification(make_config(num_labels=3)).eval()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    graph = torch.export.export(model, (ids, mask)).module()
    left = torch.stack([ids[0], torch.cat([ids[1, 12:], ids[1, :12]])])
    torch.testing.assert_close(graph(left, left.ne(1).long()).logits, model(ids, mask).logits)
