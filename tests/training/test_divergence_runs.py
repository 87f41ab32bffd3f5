"""Real training runs that diverge: they say where and at which examples, and never save what is not a number."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.training import divergence
from linformer_fairseq.training.metrics import read_metrics

POISONED = """
import json, os
import torch
from fairseq.criterions.masked_lm import MaskedLmLoss

forward, batches = MaskedLmLoss.forward, []
where = json.loads(os.environ["POISON"])

def poisoned(self, model, sample, reduce=True):
    loss, size, log = forward(self, model, sample, reduce)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    if model.training:
        batches.append(1)
    if model.training == where["training"] and rank == where["rank"] and len(batches) >= where["batch"]:
        os.write(1, f"POISONED {sample['id'].tolist()}\\n".encode())  # whole, though two ranks write into one pipe
        loss = loss * float("nan")
        log["loss"] = loss.data
    return loss, size, log

MaskedLmLoss.forward = poisoned

from fairseq_cli.train import cli_main
cli_main()
"""


@pytest.fixture
def finish_poisoned(finish: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """As `finish`, with losses of nan on `rank` from its `batch`-th batch on, or in validation; status 1."""

    def run(command: list[object], environment: dict[str, str] | None = None, **where: object) -> str:
        script = tmp_path / "train.py"
        script.write_text(POISONED)
        command = [script if word == "fairseq-train" else word for word in command]
        poison = json.dumps({"training": True, "rank": 0, **where})
        return finish(command, status=1, POISON=poison, **(environment or {}))

    return run


def sentence(output: str) -> str:
    """The one line that says why it has stopped."""
    found = re.findall(r"the training run has diverged and stops at .*", output)
    assert len(found) == 1, output[-5000:]
    return str(found[0])


def parameters_are_finite(checkpoint: Path) -> bool:
    model: dict[str, Any] = torch.load(checkpoint, weights_only=False)["model"]
    return all(bool(torch.isfinite(value).all()) for value in model.values())


@pytest.mark.slow
def test_nan_in_one_batch_of_one_rank(
    finish_poisoned: Callable[..., str], train_command: Callable[..., list[str]], srun: Any, tmp_path: Path
) -> None:
    """Rank 1's first batch of update 3, which is its fifth; update 2 was saved."""
    run = tmp_path / "run"
    launcher, environment = srun
    flags = ("--update-freq", 2, "--batch-size", 4, "--save-interval-updates", 2)
    command = train_command(run, *flags, "--max-update", 9, launcher=launcher)
    output = finish_poisoned(command, environment, rank=1, batch=5)
    poisoned = json.loads(re.findall(r"POISONED (.*)", output)[0])
    ids = ", ".join(map(str, poisoned))
    reason = "stops at update 3 (epoch 1): the gradient is nan or infinite; the loss of the examples"
    assert f"{reason} {ids} on rank 1, " in sentence(output)
    assert f"the last good checkpoint, {run}/checkpoint_1_2.pt (update 2)" in sentence(output)

    report = json.loads((run / "run" / "bad_batch.json").read_text())
    assert report["update"] == 3 and report["updates_of_it"] == 2
    assert [(batch["rank"], batch["loss_is_finite"]) for batch in report["batches"]] == [
        *[(0, True), (0, True)],
        *[(1, False), (1, False)],
    ]
    assert report["batches"][2]["ids"] == poisoned
    assert parameters_are_finite(run / "checkpoint_last.pt")
    assert [line["update"] for line in read_metrics(run)] == [1, 2]
    assert "gradients: {" not in output  # fairseq would print every one of them


def test_parameters_that_are_not_finite_are_not_saved(
    finish: Callable[..., str], train_command: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Without eps, Adam divides 0 by 0 for each symbol that the first update has not seen, with a finite gradient."""
    command = train_command(tmp_path, "--adam-eps", 0, "--save-interval-updates", 1, "--max-update", 3)
    reason = sentence(finish(command, status=1))
    assert "update 1 (epoch 1): its parameters or the state of its optimizer are not finite" in reason
    assert f"{tmp_path} has no good checkpoint from before" in reason
    assert not list(tmp_path.glob("*.pt"))


def test_a_perplexity_that_does_not_come_back(
    finish: Callable[..., str], train_command: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = train_command(tmp_path, "--lr", "0.7", "--max-update", 12)
    reason = sentence(finish(command, status=1))
    assert "update 10 " in reason and "3 times the 49 of a uniform guess" in reason
    assert "LINFORMER_MAX_PERPLEXITY_RATIO=0 lets it continue" in reason
    assert not list(tmp_path.glob("*.pt"))  # it was stopped before the save at its end
    finish(command, LINFORMER_MAX_PERPLEXITY_RATIO="0")


def test_a_validation_that_is_not_a_number_becomes_no_best_checkpoint(
    finish_poisoned: Callable[..., str], train_command: Callable[..., list[str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [word for word in train_command(run, "--save-interval-updates", 2) if word != "--disable-validation"]
    output = finish_poisoned([*command, "--max-update", 4], training=False, batch=3)
    assert "update 4 (epoch 1): the loss of its validation on valid is nan" in sentence(output)
    assert math.isfinite(torch.load(run / "checkpoint_best.pt", weights_only=False)["extra_state"]["val_loss"])
    assert f"the last good checkpoint, {run}/checkpoint_1_2.pt (update 2)" in sentence(output)


def test_which_errors_of_fairseq_mean_that_it_has_diverged() -> None:
    scale = FloatingPointError("Minimum loss scale reached (0.0001). Your loss is probably exploding.")
    assert "--min-loss-scale" in str(divergence._reason(scale))
    gradient = FloatingPointError("gradients are Nan/Inf")
    assert divergence._reason(gradient) == "the gradient is nan or infinite"
    inconsistent = "Fatal error: gradients are inconsistent between workers.\nrank   0 = {}\nrank   1 = {}\n"
    assert divergence._reason(FloatingPointError(inconsistent.format("nan", "nan"))) is not None
    assert divergence._reason(FloatingPointError(inconsistent.format("1.5", "1.6"))) is None
    assert divergence._reason(RuntimeError("CUDA error")) is None
    while_handled = RuntimeError("in the second pass of NanDetector")
    while_handled.__context__ = gradient
    assert divergence._reason(while_handled) is not None


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (3e38, True), (math.inf, False), (math.nan, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_is_not_infinite(value: float, finite: bool, dtype: torch.dtype) -> None:
    """The sum of a thousand values of 3e38 is infinite, none of them is."""
    tensors = [torch.zeros(3), torch.full((1000,), value, dtype=dtype), torch.ones(2, dtype=torch.int64)]
    assert divergence._all_finite(tensors) is finite
