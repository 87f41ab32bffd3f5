"""`--criterion fused_masked_lm` is fairseq's `masked_lm`: loss, gradients, logs, and the curve of a training run."""

from __future__ import annotations

from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import utils
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from torch import Tensor
from torch.nn import functional

from linformer_fairseq.criterions import fused_masked_lm as module
from linformer_fairseq.criterions.fused_masked_lm import linear_cross_entropy
from linformer_fairseq.errors import UsageError
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.training import hooks

N = 32
M, C, V = 37, 24, 101


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


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("pads", [0, 3])
def test_a_step_asks_the_device_for_nothing(counted: bool, pads: int, task: Task, monkeypatch: Any) -> None:
    """A tensor on the meta device has no values to give; the trainer counts before a batch is brought to its device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # meta has no autocast
    monkeypatch.setattr(torch, "autocast", lambda device, **options: nullcontext())
    model, sample, pad = (
        model_of("linformer_roberta_tiny", task).to("meta"),
        sample_of(task),
        task.source_dictionary.pad(),
    )
    for name in ("src_tokens", "target"):
        (sample["net_input"] if name == "src_tokens" else sample)[name][0, N - pads :] = pad
    masked = int(sample["target"].ne(pad).sum())

    def to_device(trainer: Any, batch: Any, is_dummy: bool) -> Any:
        return utils.apply_to_sample(lambda tensor: tensor.to("meta"), batch)

    if counted:
        sample = hooks.prepare_sample(to_device, Namespace(get_model=lambda: model), sample)
    else:
        sample = to_device(None, sample, False)
    with nullcontext() if counted else pytest.raises((RuntimeError, NotImplementedError)):
        loss, size, _ = criterion_of("fused_masked_lm", task)(model, sample)
        loss.backward()
        assert size == masked and sample["net_input"]["padded"] is (pads > 0)


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


@pytest.mark.slow
def test_twenty_updates_and_resuming_with_the_other(run_fairseq: Any, tiny_data: Path, tmp_path: Path) -> None:
    plain, ours = ("masked_lm", "adam"), ("fused_masked_lm", "fused_adamw")
    train(run_fairseq, tiny_data, tmp_path / "plain", *plain, "--max-update", 20)
    train(run_fairseq, tiny_data, tmp_path / "ours", *ours, "--max-update", 15)
    train(run_fairseq, tiny_data, tmp_path / "ours", *plain, "--max-update", 17)
    train(run_fairseq, tiny_data, tmp_path / "ours", *ours, "--max-update", 20)
    expected, found = curve(tmp_path / "plain"), curve(tmp_path / "ours")
    assert len(expected) == len(found) == 20 and expected[-1] < expected[0] - 0.3
    assert found == pytest.approx(expected, rel=1e-5)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor]:
    """Features, weight and bias that ask for gradients, and targets of which some are alike."""
    torch.manual_seed(0)
    leaves = [torch.randn(M, C), torch.randn(V, C), torch.randn(V)]
    return [leaf.to(dtype).requires_grad_() for leaf in leaves], torch.randint(0, V // 4, (M,))


def plain(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """As fairseq computes it."""
    logits = functional.linear(x, weight) + bias
    return functional.nll_loss(torch.log_softmax(logits, 1, dtype=torch.float32), targets, reduction="sum")


@pytest.fixture(params=[1, 5, M, 1000], ids="{} rows at a time".format)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * V * request.param)


def both(dtype: torch.dtype, scale: float) -> tuple[list[Tensor], list[Tensor]]:
    """Loss and gradients of `scale` times the loss, plain and ours."""
    results = []
    for function in (plain, linear_cross_entropy):
        leaves, targets = inputs(dtype)
        loss = function(*leaves, targets)
        (loss * scale).backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert [each.dtype for each in results[0]] == [each.dtype for each in results[1]]
    return results[0], results[1]


@pytest.mark.parametrize("scale", [1.0, 128.0])
def test_loss_and_gradients_are_the_plain_ones(chunks: None, scale: float) -> None:
    for expected, found in zip(*both(torch.float32, scale), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_16_bit_parameters(chunks: None, dtype: torch.dtype, tolerance: float) -> None:
    for expected, found in zip(*both(dtype, 16.0), strict=True):
        assert (found - expected).norm() < tolerance * expected.norm()


def test_under_autocast(chunks: None) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = both(torch.float32, 1.0)
    for expected, found in zip(*results, strict=True):
        assert (found - expected).norm() < 1e-2 * expected.norm()


def test_nothing_to_predict(chunks: None) -> None:
    (x, weight, bias), targets = inputs()
    loss = linear_cross_entropy(x[:0], weight, bias, targets[:0])
    loss.backward()
    assert loss == 0 and not weight.grad.any() and not bias.grad.any() and x.grad.shape == x.shape


def test_logits_are_never_held_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor that is made has more elements than a chunk of logits, or than the weights and their gradient."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            largest = max(largest, result.numel() if isinstance(result, Tensor) else 0)
            return result

    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * V * 8)
    leaves, targets = inputs()
    with Watch():
        linear_cross_entropy(*leaves, targets).backward()
    assert largest == V * C
    with Watch():
        plain(*leaves, targets).backward()
    assert largest == V * M


def test_weight_gradient_of_a_frequent_symbol_fits_in_fp16() -> None:
    """Its sum over 160 rows of features of 17.5 times the factor of 32 is beyond the 65,504 of float16."""
    x = torch.full((160, C), 17.5, dtype=torch.float16, requires_grad=True)
    weight = torch.zeros(V, C, dtype=torch.float16, requires_grad=True)
    bias = torch.zeros(V, dtype=torch.float16, requires_grad=True)
    linear_cross_entropy(x, weight, bias, torch.full((160,), 3)).backward()
    exact = 160 * 17.5 * (1 / V - torch.eye(V)[3])
    torch.testing.assert_close(weight.grad.float(), exact.unsqueeze(1).expand(V, C), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_products_for_tensor_cores_have_multiples_of_64_rows_and_symbols(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 16 bit as on a GPU; the gradients have the size of the parameters."""
    shapes: list[torch.Size] = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *operands: [shapes.append((out := addmm(*operands)).shape), out][1])
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * V * 70)
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((200, C), (V, C), (V,)))
    linear_cross_entropy(x, weight, bias, torch.arange(200) % V).backward()
    low = dtype == torch.float16
    assert shapes == ([(128, 128), (72, 128)] if low else [(70, V), (70, V), (60, V)])
    assert (weight.grad.shape, bias.grad.shape) == ((V, C), (V,)) and torch.isfinite(weight.grad).all()
