"""A run that could train nothing is refused before it starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.training.preflight import refuse_useless


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("optimization.lr", [-1.0], "--lr -1.0: must be at least 0"),
        ("optimization.lr", [0.1, math.nan], "--lr nan"),
        ("optimization.lr", [math.inf], "--lr inf"),
        ("optimization.max_update", -3, "--max-update -3"),
        ("optimization.update_freq", [0], "--update-freq 0: must be at least 1"),
        ("dataset.batch_size", 0, "--batch-size 0"),
        ("dataset.max_tokens", -1, "--max-tokens -1"),
    ],
)
def test_a_number_that_trains_nothing_is_refused(setting: str, value: object, why: str) -> None:
    cfg = OmegaConf.structured(FairseqConfig())
    cfg.dataset.batch_size = 16
    refuse_useless(cfg)
    OmegaConf.update(cfg, setting, value)
    with pytest.raises(UsageError, match=why):
        refuse_useless(cfg)


@pytest.mark.parametrize(
    ("flags", "why"),
    [(("--lr", -1), "--lr -1"), (("--distributed-world-size", -1), "--distributed-world-size -1: must be at least 1")],
)
def test_a_run_ends_in_one_sentence(
    train_command: Callable[..., list[object]], finish: Callable[..., str], tmp_path: Path, flags: object, why: str
) -> None:
    output = finish(train_command(tmp_path / "run", "--max-update", 1, *flags), status=1)
    assert output.strip().splitlines()[-1].startswith(f"error: {why}") and "Traceback" not in output
    assert not list(tmp_path.rglob("*.pt"))
