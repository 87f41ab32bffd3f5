"""Each process has a log, and one that dies leaves its traceback there; TensorBoard works or is refused."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fairseq.logging import progress_bar
from omegaconf import OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.reporting.runs import Run
from linformer_fairseq.training.logs import refuse_missing_packages

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


@pytest.mark.skipif(
    not (find_spec("tensorboard") or find_spec("tensorboardX")), reason="neither tensorboard nor tensorboardX is here"
)
def test_tensorboard_gets_the_figures(
    train_command: Callable[..., list[str]], finish: Callable[..., str], tmp_path: Path
) -> None:
    finish(train_command(tmp_path, "--max-update", 2, "--tensorboard-logdir", tmp_path / "board"))
    assert [path for path in (tmp_path / "board" / "train_inner").iterdir() if path.stat().st_size > 200]
