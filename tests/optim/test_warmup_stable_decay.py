"""The schedule `warmup_stable_decay`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.optim.sgd import SGD
from torch import nn

from linformer_fairseq.errors import UsageError
from linformer_fairseq.optim.warmup_stable_decay import WarmupStableDecay


def schedule(**settings: Any) -> WarmupStableDecay:
    cfg = {"lr": [0.1], "warmup_updates": 10, "decay_share": 0.25, "total_num_update": 100} | settings
    sgd = SGD(SimpleNamespace(lr=[0.1], momentum=0.0, weight_decay=0.0), [nn.Parameter(torch.zeros(1))])
    return WarmupStableDecay(SimpleNamespace(**cfg), sgd)


def test_it_rises_stays_and_falls_to_zero() -> None:
    found = schedule()
    rates = [found.step_update(number) for number in range(121)]
    assert rates[0] == rates[1] == pytest.approx(0.01)
    assert rates[5] == pytest.approx(0.05)
    assert set(rates[10:76]) == {0.1}
    falling = rates[75:101]
    assert all(later < earlier for earlier, later in zip(falling, falling[1:], strict=False))
    assert rates[75 + 9] == pytest.approx(0.1 * (1 - (9 / 25) ** 0.5))
    assert set(rates[100:]) == {0}
    assert found.optimizer.get_lr() == 0


def test_before_the_decay_the_end_does_not_matter() -> None:
    short, long = schedule(), schedule(total_num_update=1000)
    assert [short.step_update(n) for n in range(76)] == [long.step_update(n) for n in range(76)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": [0.1, 0.2]}, "--lr 0.1,0.2"),
        ({"total_num_update": 0}, "--max-update or --total-num-update"),
        ({"warmup_updates": 80}, "--warmup-updates 80 and --decay-share 0.25"),
        ({"decay_share": 1.5}, "--decay-share 1.5"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        schedule(**settings)
