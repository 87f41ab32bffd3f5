"""Whole updates beside fairseq's example: real trainings at a tiny size, and the report of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from linformer_fairseq.layers import fused
from recipes.reproduce import update_speed
from recipes.reproduce.updates import report
from recipes.reproduce.updates.anatomy import _CORE_FUNCTIONS, GROUPS, sort
from recipes.reproduce.updates.contestants import CONTESTANTS
from recipes.reproduce.updates.vocabulary import with_symbols

TINY = "--n 32 --k 8 --tokens 128 --updates 3 --warm-up 1 --rounds 1 --profile 1 --symbols 100 --threads 1 --workers 0"
SIZES = "--layers 1 --embed-dim 32 --ffn-dim 64 --heads 2"


def test_pads_a_dictionary_but_not_the_text(tiny_data: Path, tmp_path: Path) -> None:
    from fairseq.data import Dictionary

    for _ in range(2):
        folder = with_symbols(tiny_data, 500, tmp_path / "padded")
    padded, given = (Dictionary.load(str(data / "dict.txt")) for data in (folder, tiny_data))
    assert len(padded) + 1 == 500  # and <mask>
    assert padded.symbols[: len(given)] == given.symbols
    assert (folder / "train.bin").read_bytes() == (tiny_data / "train.bin").read_bytes()


def run_of(seconds: float) -> dict[str, Any]:
    return {
        "seconds": [99.0, seconds, seconds],
        "tokens": [4096] * 4,
        "losses": [9.0] * 4,
        "parameters": 1,
        "peak_bytes": 1,
    }


def test_the_contract_is_judged_by_the_median_ratio_of_rounds() -> None:
    """And not by the ratio of medians: the second round ran on a busy machine."""
    speeds = {"theirs-fp32": (2.0, 8.0, 2.0), "ours-fp32": (1.6, 5.0, 1.6), "ours-bf16": (1.1, 4.4, 1.1)}
    lines = report.summary({512: {folder: [run_of(s) for s in found] for folder, found in speeds.items()}}, warm_up=2)
    assert [line["ratio"] for line in lines] == pytest.approx([1.0, 1.25, 2 / 1.1])
    assert [line["met"] for line in lines] == [None, True, False]
    assert lines[1]["ratios"] == pytest.approx([1.25, 1.6, 1.25]) and lines[0]["seconds"] == 2.0


def test_all_that_our_attention_does_counts_as_its_core() -> None:
    """Its random numbers and masks, too, whose shapes do not tell."""
    q, k, v = (torch.randn(1, 2, size, 8, requires_grad=True) for size in (64, 16, 16))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        with record_function("anatomy:encoder"):
            out = fused.attend(q, k, v, None, 0.1)
        torch.autograd.backward([out], [out.detach()])
    events = list(profiler.events() or ())
    assert set(sort(events, head_dim=8, projected_length=16)) == {"attention core"}
    assert {event.name for event in events} >= set(_CORE_FUNCTIONS)


@pytest.mark.slow
def test_three_contestants_and_where_their_time_goes(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [str(tiny_data), "--out", str(tmp_path / "runs"), "--report", str(tmp_path / "report")]
    argv += [*TINY.split(), *SIZES.split()]
    update_speed.main(argv)
    text = (tmp_path / "report/results.md").read_text()
    found = json.loads((tmp_path / "report/results.json").read_text())
    assert [line["contestant"] for line in found["updates"]] == [contestant.name for contestant in CONTESTANTS]
    assert "| ours, bf16, n = 32 | 2.00 | " in text
    theirs, ours, _ = found["updates"]
    assert theirs["last_loss"] == pytest.approx(ours["last_loss"], rel=0.2)  # another start, the same text
    for contestant in CONTESTANTS:
        log = (tmp_path / "runs/n32" / contestant.folder / "round-0.log").read_text()
        assert ("fused_adamw" in log) is contestant.ours
        anatomy = found["anatomy"]["32"][contestant.folder][0]["anatomy"]
        assert list(anatomy) == list(GROUPS)
        assert all(anatomy[group] > 0 for group in GROUPS)
    # What has been measured is not measured again.
    monkeypatch.setattr(update_speed.subprocess, "run", None)
    update_speed.main(argv)
    assert (tmp_path / "report/results.md").read_text() == text
