"""The benchmark measures every way and reports it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from linformer_fairseq.errors import UsageError
from recipes.reproduce import encode_speed
from recipes.reproduce.encode_speed import Plan, agreement, documents, measure


def test_all_ways_are_measured_and_reported() -> None:
    sizes = {"encoder_layers": 1, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 32, "encoder_attention_heads": 2}
    plan = Plan({**encode_speed.QUICK, "max_positions": 128, "projected_length": "16", **sizes}, 8, 2, "cpu", 300)
    found = json.loads(json.dumps({"command": "it", **measure(plan)}))
    assert len(found["runs"]) == 18 and all(len(run["seconds"]) == 2 for run in found["runs"])
    assert found["computed_tokens"]["one at a time"] == found["tokens"] <= found["computed_tokens"]["like length"]
    assert len(found["agreement"]) == 4 and all(entry["lowest cosine"] > 0.98 for entry in found["agreement"])
    text = encode_speed.report(found)
    assert text.count("| linformer | ") == 11 and "| exact | int8 | like length | " in text


def test_documents_have_the_lengths_that_are_said() -> None:
    lengths = [len(ids) for ids in documents(2000, 4096)]
    assert min(lengths) >= 16 and max(lengths) <= 4096 and 200 < sorted(lengths)[1000] < 330  # sqrt(16 * 4096) is 256


def test_agreement_sees_what_tells_documents_apart() -> None:
    wanted = np.random.default_rng(0).normal(size=(9, 16)).astype(np.float32) + 100
    found = agreement(wanted, wanted[::-1].copy())
    assert found["lowest cosine"] > 0.99 and found["centred"] < 0.9


def test_wrong_flags_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--rounds 0: must be at least 1"):
        encode_speed.main(["--out", str(tmp_path), "--rounds", "0"])
