"""Layer-wise learning-rate decay: the groups, and updates of fairseq and of the heads that follow them, resumed too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, read
from linformer_fairseq.finetuning import train
from linformer_fairseq.finetuning.heads import Steps
from linformer_fairseq.finetuning.train import Run, digests_of, finetune
from linformer_fairseq.hf.configuration_linformer import LinformerConfig
from linformer_fairseq.hf.modeling_linformer import LinformerForTokenClassification
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.optim.by_layer import by_layer
from linformer_fairseq.plugin import register
from linformer_fairseq.tables import Table


def table(rows: int) -> Table:
    texts = [(f"the {('good', 'bad')[i % 2]} book",) for i in range(rows)]
    return Table(Path("a.tsv"), texts, [("yes", "no")[i % 2] for i in range(rows)])


def run_of(checkpoint: Path, out: Path, **settings: Any) -> Run:
    tables, labels = {"train": table(32), "dev": table(8)}, Labels(("no", "yes"), 1)
    digests = digests_of(read(checkpoint), None, tables)
    return Run("task", out, checkpoint, None, tables, digests, labels, ("accuracy",), 1, 1e-3, 16, **settings)


def test_rates_fall_from_the_head_to_the_embeddings(checkpoint: Path) -> None:
    model = build(Checkpoint(read(checkpoint).state, read(checkpoint).model))
    model.register_classification_head("topic", num_classes=2)
    groups = by_layer(model.named_parameters(), 0.1, 0.5)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert all(group["lr"] == 0.1 * group["lr_scale"] for group in groups)
    layers = len(model.encoder.sentence_encoder.layers)
    for name, parameter in model.named_parameters():
        inside = name.startswith("encoder.sentence_encoder.") and ".sentence_encoder.layer_norm." not in name
        power = layers - int(name.split(".")[3]) if ".layers." in name else layers + 1 if inside else 0
        assert scales.pop(id(parameter)) == 0.5**power, name
    assert not scales and len(groups) == layers + 2
    (one,) = by_layer(model.named_parameters(), 0.1, 1.0)
    assert one["lr"] == 0.1 and len(one["params"]) == len([*model.parameters()])


@pytest.mark.slow
def test_fairseq_trains_each_layer_at_its_rate_and_resumes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    run = run_of(checkpoint, tmp_path, epochs=2, warm_up=0.0, layer_lr_decay=0.1)
    with monkeypatch.context() as shorter:
        argv = train.fairseq_train_argv
        shorter.setattr(train, "fairseq_train_argv", lambda *given: argv(*given, more=["--max-update", "1"]))
        finetune(run)
    (tmp_path / "result.json").unlink()
    finetune(run)

    before, after = read(checkpoint).state, read(tmp_path / "checkpoints/checkpoint_last.pt").state
    layers = 1 + max(int(name.split(".")[3]) for name in before if ".layers." in name)
    names = ["layernorm_embedding.bias", *(f"layers.{i}.fc1.weight" for i in range(layers))]
    names = [f"encoder.sentence_encoder.{name}" for name in names]
    steps = [(before[name] - after[name]).abs().max().item() for name in names]
    assert all(5 < upper / lower < 20 for lower, upper in zip(steps, steps[1:], strict=False)), steps
    saved = torch.load(tmp_path / "checkpoints/checkpoint_last.pt", weights_only=False)
    assert saved["optimizer_history"][-1]["num_updates"] == 4
    scales = [group["lr_scale"] for group in saved["last_optimizer_state"]["param_groups"]]
    assert scales == pytest.approx([0.1**i for i in range(layers + 2)])


def test_heads_of_transformers_follow_too(checkpoint: Path, tmp_path: Path) -> None:
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LinformerForTokenClassification(LinformerConfig(**sizes))
    steps = Steps(model, [{}] * 32, run_of(checkpoint, tmp_path, layer_lr_decay=0.5, warm_up=0.5))
    rates = [group["lr"] for group in steps.optimizer.param_groups]
    assert len(rates) == 4 and rates == pytest.approx([rates[0] * 0.5**i for i in range(4)])
