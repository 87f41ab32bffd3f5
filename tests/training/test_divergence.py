"""When a perplexity counts as one that does not come back, and which checkpoint a diverged run can resume from."""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from linformer_fairseq.errors import UsageError
from linformer_fairseq.training.divergence import VARIABLE, PerplexityRule, last_good_checkpoint, ratio_setting


def stops_at(losses: Iterable[float], ratio: float = 3, vocab_size: int | None = 1024) -> int | None:
    """The number of the log interval at which the rule stops, or None."""
    rule = PerplexityRule(ratio, vocab_size)
    return next((at for at, loss in enumerate(losses, 1) if rule.broken_by(at, loss)), None)


LEARNS = [10 - 6 * (1 - 0.95**at) for at in range(100)]  # bits: from a uniform guess over 1024 symbols down to 4


def test_a_training_that_learns_goes_on() -> None:
    assert stops_at(LEARNS) is None


def test_a_perplexity_that_stays_three_times_as_high_stops() -> None:
    rises = [*LEARNS, *[LEARNS[-1] + math.log2(3.5)] * 50]
    assert stops_at(rises) == 100 + 21  # when it is the median of the last 40
    assert stops_at(rises, ratio=4) is None


def test_a_spike_does_not_stop() -> None:
    assert stops_at([*LEARNS, *[50.0] * 19, *[LEARNS[-1]] * 80]) is None


def test_a_training_that_never_learns_stops_at_the_tenth_interval() -> None:
    assert stops_at([200.0] * 20) == 10
    assert stops_at([200.0] * 20, vocab_size=None) is None  # nothing to compare with


def test_small_noisy_batches_do_not_stop() -> None:
    """Losses of single updates with few masked tokens scatter by a bit, and the luckiest must not set the limit."""
    rng = random.Random(1)
    assert stops_at(rng.gauss(4, 1) for _ in range(5000)) is None


def test_the_reason_names_both_perplexities_and_the_update() -> None:
    rule = PerplexityRule(3, 1024)
    reasons = [rule.broken_by(at * 100, loss) for at, loss in enumerate([5.0] * 40 + [9.0] * 21, 1)]
    assert reasons[-1] == (
        "its perplexity over the last 40 log intervals is 512, more than 3 times the 32 of the lowest so far, "
        "at update 4000"
    )
    assert rule.last_good_update() == 4000
    rule = PerplexityRule(3, 1024)
    assert "3 times the 1,024 of a uniform guess" in str([rule.broken_by(at, 50.0) for at in range(10)])
    assert rule.last_good_update() == 0


def test_the_variable_changes_the_ratio_or_switches_the_rule_off() -> None:
    assert ratio_setting({}) == 3
    assert ratio_setting({VARIABLE: "1.5"}) == 1.5
    assert ratio_setting({VARIABLE: "0"}) is None


@pytest.mark.parametrize("text", ["1", "-2", "no", "", "nan"])
def test_a_variable_that_means_nothing_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=VARIABLE):
        ratio_setting({VARIABLE: text})


def save(folder: Path, name: str, updates: int, value: float = 1.0) -> Path:
    content = {"model": {"weight": torch.full((300,), value), "version": torch.tensor(1)}, "extra_state": {}}
    torch.save({**content, "optimizer_history": [{"num_updates": updates}]}, folder / name)
    return folder / name


def test_the_newest_one_until_then_is_found(tmp_path: Path) -> None:
    save(tmp_path, "checkpoint_1_5.pt", 5)
    good = save(tmp_path, "checkpoint_1_10.pt", 10)
    save(tmp_path, "checkpoint_1_15.pt", 15)
    save(tmp_path, "checkpoint_last.pt", 15)
    os.utime(tmp_path / "checkpoint_1_5.pt")  # copied since; updates count, not times
    assert last_good_checkpoint(tmp_path, 14) == (good, 10)
    assert last_good_checkpoint(tmp_path, 4) is None


def test_a_numbered_one_is_named_before_its_copy(tmp_path: Path) -> None:
    numbered = save(tmp_path, "checkpoint_1_10.pt", 10)
    shutil.copy(numbered, tmp_path / "checkpoint_last.pt")
    assert last_good_checkpoint(tmp_path, 10) == (numbered, 10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_not_good(tmp_path: Path, value: float) -> None:
    good = save(tmp_path, "checkpoint_1_5.pt", 5)
    save(tmp_path, "checkpoint_1_10.pt", 10, value)
    assert last_good_checkpoint(tmp_path, 20) == (good, 5)


def test_damaged_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    good = save(tmp_path, "checkpoint_1_5.pt", 5)
    cut = save(tmp_path, "checkpoint_1_10.pt", 10)
    cut.write_bytes(cut.read_bytes()[:-400])
    (tmp_path / "checkpoint_1_11.pt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "checkpoint_1_12.pt")
    torch.save({"model": {}, "optimizer_history": [7]}, tmp_path / "checkpoint_1_13.pt")
    assert last_good_checkpoint(tmp_path, 20) == (good, 5)
