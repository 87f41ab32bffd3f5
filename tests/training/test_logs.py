"""Each process has a log, and one that dies leaves its traceback there; TensorBoard and W&B work or are refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fairseq.logging import progress_bar
from omegaconf import OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.reporting.runs import Run
from linformer_fairseq.training.metrics import read_metrics
from linformer_fairseq.training.preflight import refuse_missing_packages

RANK_1_FAILS = """
import torch
from fairseq.criterions.masked_lm import MaskedLmLoss

forward, calls = MaskedLmLoss.forward, []

def fail_on_rank_1(self, *arguments, **named):
    calls.append(1)
    if torch.distributed.get_rank() == 1 and len(calls) == 3:
        raise RuntimeError("the third batch of rank 1")
    return forward(self, *arguments, **named)

MaskedLmLoss.forward = fail_on_rank_1

from fairseq_cli.train import cli_main
cli_main()
"""


@pytest.mark.slow
def test_a_rank_that_dies_leaves_its_own_traceback(
    train_command: Callable[..., list[object]], finish: Callable[..., str], srun: Any, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(RANK_1_FAILS)
    launcher, environment = srun
    command = train_command(tmp_path / "run", "--max-update", 5)
    finish([*launcher, script, *command[1:]], status=1, **environment)
    logs = [(tmp_path / "run" / "run" / "logs" / f"rank-{rank}.log").read_text() for rank in (0, 1)]
    assert "RuntimeError: the third batch of rank 1" in logs[1] and "in fail_on_rank_1" in logs[1]
    assert "the third batch" not in logs[0]
    assert '"num_updates": "2"' in logs[0] and '"num_updates": "2"' in logs[1]
    assert Run(tmp_path / "run").ends() == {1: "RuntimeError: the third batch of rank 1 (rank-1)"}


@pytest.mark.parametrize(
    ("setting", "name", "advice"),
    [
        ("tensorboard_logdir", "SummaryWriter", "--tensorboard-logdir .* pip install tensorboard"),
        ("wandb_project", "wandb", "--wandb-project .* pip install wandb"),
    ],
)
def test_a_log_is_refused_where_nothing_could_write_it(
    monkeypatch: pytest.MonkeyPatch, setting: str, name: str, advice: str
) -> None:
    monkeypatch.setattr(progress_bar, name, None)
    refuse_missing_packages(OmegaConf.create({"common": {setting: None}}))
    with pytest.raises(UsageError, match=advice):
        refuse_missing_packages(OmegaConf.create({"common": {setting: "logs"}}))
    monkeypatch.setattr(progress_bar, name, object())
    refuse_missing_packages(OmegaConf.create({"common": {setting: "logs"}}))


def messages(content: bytes) -> Iterator[bytes]:
    """Those of a file of TensorBoard: length, checksum, message, checksum."""
    start = 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        yield content[start + 12 : start + 12 + length]
        start += length + 16


def wandb_messages(content: bytes, block: int = 1 << 15) -> Iterator[bytes]:
    """Those of a .wandb file: in blocks, parts of records (checksum, length, type: whole, first, middle, last)."""
    start, parts = 7, b""
    while start < len(content):
        if block - start % block < 7:
            start += block - start % block
            continue
        length, kind = struct.unpack_from("<HB", content, start + 4)
        parts += content[start + 7 : start + 7 + length]
        start += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


@pytest.mark.slow
def test_tensorboard_gets_the_figures(
    train_command: Callable[..., list[str]], finish: Callable[..., str], tmp_path: Path
) -> None:
    events = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")
    finish(train_command(tmp_path, "--max-update", 2, "--log-interval", 1, "--tensorboard-logdir", tmp_path / "board"))
    (file,) = (tmp_path / "board/train_inner").iterdir()
    found = {}
    for event in map(events.Event.FromString, messages(file.read_bytes())):
        found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    assert_figures(found, tmp_path)


@pytest.mark.slow
def test_weights_and_biases_gets_the_figures(
    train_command: Callable[..., list[str]], finish: Callable[..., str], tmp_path: Path
) -> None:
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason="wandb is not installed")
    (tmp_path / "wb").mkdir()
    command = train_command(tmp_path, "--max-update", 2, "--log-interval", 1, "--wandb-project", "p")
    finish(command, WANDB_MODE="offline", WANDB_DIR=str(tmp_path / "wb"))
    (file,) = (tmp_path / "wb").rglob("*.wandb")
    found = {}
    for record in map(records.Record.FromString, wandb_messages(file.read_bytes())):
        row = {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in record.history.item}
        step = int(json.loads(row.get("_step", "-1")))
        found |= {(step, name.removeprefix("train_inner/")): json.loads(value) for name, value in row.items()}
    assert_figures(found, tmp_path)


def assert_figures(found: dict[tuple[int, str], float], run: Path) -> None:
    """Loss, learning rate and norm of the gradient are those of metrics.jsonl, up to fairseq's rounding."""
    lines = [line for line in read_metrics(run) if line["split"] == "train"]
    assert [line["update"] for line in lines] == [1, 2]
    for line, (name, key) in product(lines, {"loss": "loss", "lr": "lr", "gradient_norm": "gnorm"}.items()):
        assert found[line["update"], key] == pytest.approx(line[name], abs=6e-4), name
