"""`--criterion fused_masked_lm` is fairseq's `masked_lm`: loss, gradients, logs, and the curve of a training."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

import linformer_fairseq
from linformer_fairseq.errors import UsageError

USER_DIR = Path(linformer_fairseq.__file__).parent
N = 32


class Task(Namespace):
    """What models and criterions ask of a task."""

    def max_positions(self) -> int:
        return N


@pytest.fixture
def task() -> Task:
    dictionary = Dictionary()
    for number in range(90):
        dictionary.add_symbol(f"w{number}")
    return Task(source_dictionary=dictionary, target_dictionary=dictionary)


def model_of(arch: str, task: Task, **settings: Any) -> Any:
    sizes = {"encoder_layers": 2, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 32, "encoder_attention_heads": 2}
    dropouts = {"dropout": 0.0, "attention_dropout": 0.0}
    cfg = Namespace(max_positions=N, tokens_per_sample=N, projected_length="8", **dropouts, **sizes, **settings)
    ARCH_CONFIG_REGISTRY[arch](cfg)
    torch.manual_seed(0)
    return ARCH_MODEL_REGISTRY[arch].build_model(cfg, task)


def sample_of(task: Task, predicted: float = 0.2) -> dict[str, Any]:
    torch.manual_seed(1)
    tokens = torch.randint(task.source_dictionary.nspecial, len(task.source_dictionary), (4, N))
    target = tokens.masked_fill(torch.rand(tokens.shape) >= predicted, task.source_dictionary.pad())
    return {"net_input": {"src_tokens": tokens}, "target": target, "ntokens": tokens.numel(), "nsentences": len(tokens)}


def criterion_of(name: str, task: Task) -> Any:
    return CRITERION_REGISTRY[name](Namespace(tpu=False), task)


def computed(name: str, model: Any, task: Task, sample: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(loss, sample size), logs with gradients."""
    model.zero_grad()
    loss, size, logs = criterion_of(name, task)(model, sample)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return (loss.detach(), size), {**logs, **gradients}


@pytest.mark.parametrize("arch", ["linformer_roberta_tiny", "roberta"])
@pytest.mark.parametrize("untied", [False, True])
def test_loss_logs_and_gradients(arch: str, untied: bool, task: Task) -> None:
    model = model_of(arch, task, untie_weights_roberta=untied)
    (loss, size), expected = computed("masked_lm", model, task, sample_of(task))
    (ours, our_size), found = computed("fused_masked_lm", model, task, sample_of(task))
    assert our_size == size
    torch.testing.assert_close(ours, loss, rtol=1e-5, atol=0)
    assert found.keys() == expected.keys()
    for name in expected:
        assert (found[name] is None) == (expected[name] is None), name
        if expected[name] is not None:
            torch.testing.assert_close(
                torch.as_tensor(found[name]), torch.as_tensor(expected[name]), rtol=1e-5, atol=1e-5
            )
    assert "forward" not in vars(model.encoder.lm_head)


def test_gradients_add_up_over_batches(task: Task) -> None:
    model = model_of("linformer_roberta_tiny", task)
    _, once = computed("fused_masked_lm", model, task, sample_of(task))
    once = {name: once[name].clone() for name, _ in model.named_parameters()}
    criterion_of("fused_masked_lm", task)(model, sample_of(task))[0].backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * once[name])


def test_a_batch_without_a_masked_token(task: Task) -> None:
    model = model_of("linformer_roberta_tiny", task)
    (loss, size), found = computed("fused_masked_lm", model, task, sample_of(task, predicted=0.0))
    assert loss == 0 and size == 0
    assert not any(found[name].any() for name, _ in model.named_parameters())


def test_validation_is_masked_lm(task: Task) -> None:
    model = model_of("linformer_roberta_tiny", task).eval()
    results = []
    for name in ("masked_lm", "fused_masked_lm"):
        with torch.no_grad():
            results.append(criterion_of(name, task).eval()(model, sample_of(task)))
    assert torch.equal(results[0][0], results[1][0]) and results[0][2] == results[1][2]


def test_a_model_without_the_head(task: Task) -> None:
    with pytest.raises(UsageError, match="use --criterion masked_lm"):
        criterion_of("fused_masked_lm", task)(torch.nn.Linear(2, 2), sample_of(task))


def train(run_fairseq: Any, data: Path, folder: Path, criterion: str, optimizer: str, *flags: object) -> Any:
    """One small training; returns update and loss of each update, in the digits of the checkpoints' meters."""
    argv = [
        *("fairseq-train", data, "--user-dir", USER_DIR, "--task", "masked_lm", "--criterion", criterion, "--cpu"),
        *("--arch", "linformer_roberta_tiny", "--encoder-layers", 1, "--encoder-embed-dim", 32),
        *("--encoder-ffn-embed-dim", 64, "--encoder-attention-heads", 2, "--dropout", 0, "--attention-dropout", 0),
        *("--tokens-per-sample", 64, "--max-positions", 64, "--projected-length", 16, "--batch-size", 8),
        *("--sample-break-mode", "complete", "--optimizer", optimizer, "--adam-betas", "(0.9, 0.98)"),
        *("--adam-eps", 1e-6, "--weight-decay", 0.1, "--clip-norm", 0.5, "--lr-scheduler", "fixed", "--lr", 1e-3),
        *("--log-format", "json", "--log-interval", 1, "--no-epoch-checkpoints", "--save-dir", folder, *flags),
    ]
    return run_fairseq(*argv)


def curve(folder: Path) -> list[float]:
    from linformer_fairseq.training.metrics import read_metrics

    return [line["loss"] for line in read_metrics(folder) if line["split"] == "train"]


def test_twenty_updates_and_going_on_with_the_other(run_fairseq: Any, tiny_data: Path, tmp_path: Path) -> None:
    plain, ours = ("masked_lm", "adam"), ("fused_masked_lm", "fused_adamw")
    train(run_fairseq, tiny_data, tmp_path / "plain", *plain, "--max-update", 20)
    train(run_fairseq, tiny_data, tmp_path / "ours", *ours, "--max-update", 15)
    train(run_fairseq, tiny_data, tmp_path / "ours", *plain, "--max-update", 17)
    train(run_fairseq, tiny_data, tmp_path / "ours", *ours, "--max-update", 20)
    expected, found = curve(tmp_path / "plain"), curve(tmp_path / "ours")
    assert len(expected) == len(found) == 20 and expected[-1] < expected[0] - 0.3
    assert found == pytest.approx(expected, rel=1e-5)
