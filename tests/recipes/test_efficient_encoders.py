"""All encoders are measured and trained; the task can be answered from the text alone."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers

from linformer_fairseq.measuring import contestants
from recipes.reproduce import efficient_encoders
from recipes.reproduce.efficient_encoders import FIRST, KEYS, OTHERS, VALUES, texts


def test_all_encoders_are_measured_and_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linformer_fairseq.measuring.study.in_a_process", partial)
    monkeypatch.setattr(efficient_encoders, "give_back_memory", lambda: None)  # of this process
    monkeypatch.setattr(efficient_encoders, "HELD_OUT", 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    assert efficient_encoders.MEASUREMENT.main(["--quick", "--out", str(tmp_path)]) == 0
    cells = json.loads((tmp_path / "results.json").read_text())["cells"]
    names = ["RoBERTa (SDPA)", "linear, k = 16", "adaptive, k = 16, W = 0", "adaptive, k = 16, W = 4", "Longformer"]
    names += ["BigBird", "Nystromformer", "Reformer", "ModernBERT"]
    assert sorted(cells) == sorted([*(f"{n}, n = 64, round 0" for n in names), *(f"{n}, lr 0.001" for n in names)])
    assert all(cells[f"{name}, lr 0.001"]["texts trained on"] >= 4 for name in names)
    roberta = cells["RoBERTa (SDPA), n = 64, round 0"]["parameters"]
    assert cells["linear, k = 16, n = 64, round 0"]["parameters"] == roberta + 64 * 16  # and E
    assert roberta < cells["Longformer, n = 64, round 0"]["parameters"]  # whose global tokens have projections
    assert 0.9 < cells["ModernBERT, n = 64, round 0"]["parameters"] / roberta < 1.1
    assert (tmp_path / "task.png").read_bytes().startswith(b"\x89PNG")


def test_an_encoder_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contestants.EFFICIENT, "Performer", "Performer")
    sizes = contestants.Sizes(64, 1, 16, 2, 16)
    assert not hasattr(transformers, "PerformerConfig")
    assert [*contestants.efficient(sizes, 4)] == [name for name in contestants.EFFICIENT if name != "Performer"]


def test_a_text_tells_what_it_asks_for() -> None:
    ids, values = texts(3, 1024, 2, torch.Generator().manual_seed(0))
    for text, wanted in zip(ids, values, strict=True):
        questions = text[:KEYS] - FIRST
        assert sorted(questions.tolist()) == list(range(KEYS))
        told = text[KEYS:][(text[KEYS:] >= FIRST + KEYS) & (text[KEYS:] < OTHERS)] - FIRST - KEYS
        assert len(told) == 2 * KEYS
        found = {int(one) // VALUES: int(one) % VALUES for one in told}
        assert [found[int(key)] for key in questions] == wanted.tolist()
