"""Vectors do not depend on batches, and every way of computing gives nearly the same."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from linformer_fairseq.checkpoints.checkpoint import PAD, build, read
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.engine import POOLINGS, Compute, Engine
from linformer_fairseq.inference.sequences import Ids, Sequences, encode, tokenizer_of


@pytest.fixture(scope="module")
def rows(checkpoint: Path) -> Sequences:
    """Documents of 1 to 120 words, of which the model reads 64 tokens at a time."""
    chance = random.Random(0)
    words = "river garden child book city winter".split()
    texts = [(" ".join(chance.choices(words, k=chance.randint(1, 120))),) for _ in range(60)]
    return encode(texts, tokenizer_of(read(checkpoint), None), 64, "chunks")


def alone(checkpoint: Path, ids: Ids, pooling: str) -> torch.Tensor:
    """The vector as it is defined: of one document, without pads."""
    with torch.inference_mode():
        features = build(read(checkpoint))(torch.from_numpy(ids)[None], features_only=True)[0][0]
    return {"mean": features.mean(0), "first": features[0], "max": features.amax(0)}[pooling]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_batches_change_nothing(checkpoint: Path, rows: Sequences, pooling: str) -> None:
    found = Engine(read(checkpoint), pooling, Compute("cpu", batch_tokens=1000)).run(rows.ids)
    for ids, vector in zip(rows.ids, found, strict=True):
        np.testing.assert_allclose(vector, alone(checkpoint, ids, pooling), rtol=0, atol=1e-5)


@pytest.mark.parametrize("compute", [Compute("cpu", "bfloat16"), Compute("cpu", quantize=True)])
def test_short_numbers_give_nearly_the_same(checkpoint: Path, rows: Sequences, compute: Compute) -> None:
    wanted = Engine(read(checkpoint), "mean", Compute("cpu")).run(rows.ids)
    found = Engine(read(checkpoint), "mean", compute).run(rows.ids)
    # Vectors of a model without training are nearly parallel; what tells them apart must agree, too.
    for centre in (0, wanted.mean(0)):
        one, two = torch.from_numpy(wanted - centre), torch.from_numpy(found - centre)
        assert torch.cosine_similarity(one, two).min() > 0.98
    assert np.abs(found - wanted).max() > 1e-5  # it is another way


def test_8_bits_do_not_depend_on_batches(checkpoint: Path, rows: Sequences) -> None:
    some, single = (
        Engine(read(checkpoint), "mean", Compute("cpu", quantize=True, batch_tokens=n)).run(rows.ids) for n in (2000, 1)
    )
    # Now and then the last bit of an input lies on the border between two integers.
    np.testing.assert_allclose(some, single, rtol=0, atol=0.02)
    assert np.median(np.abs(some - single)) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-3), ("bfloat16", 0.1)])
def test_a_gpu_gives_the_same(checkpoint: Path, rows: Sequences, dtype: str, tolerance: float) -> None:
    wanted = Engine(read(checkpoint), "mean", Compute("cpu")).run(rows.ids)
    found = Engine(read(checkpoint), "mean", Compute("cuda", dtype)).run(rows.ids)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_few_graphs_serve_all_lengths(checkpoint: Path, rows: Sequences) -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    wanted = Engine(read(checkpoint), "mean", Compute("cpu")).run(rows.ids)
    engine = Engine(read(checkpoint), "mean", Compute("cpu", compile=True, batch_tokens=300))
    shapes = {len(ids) for ids in rows.ids}
    np.testing.assert_allclose(engine.run(rows.ids), wanted, rtol=0, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6 < len(shapes)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_chunks_become_rows(checkpoint: Path, rows: Sequences, pooling: str) -> None:
    engine = Engine(read(checkpoint), pooling, Compute("cpu"))
    each, found = engine.run(rows.ids), engine.rows(rows)
    assert len(found) == 60 < len(each)
    for row, vector in enumerate(found):
        own = np.flatnonzero(rows.owners == row)
        tokens = [len(rows.ids[i]) for i in own]
        wanted = each[own].max(0) if pooling == "max" else np.average(each[own], axis=0, weights=tokens)
        np.testing.assert_allclose(vector, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "compute, message",
    [
        (Compute("cuda:99"), "--device cuda:99: not available here"),
        (Compute("tpu"), "--device tpu: not available here"),
        (Compute("meta", quantize=True), "--quantize is for a CPU and the device is meta; use --dtype bfloat16"),
        (Compute("cpu", quantize=True, compile=True), "--quantize and --compile exclude each other"),
        (Compute("cpu", compile=True), r"--compile needs a C\+\+ compiler and there is no no-such-compiler"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    compute: Compute, message: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=message):
        Engine(read(checkpoint), "mean", compute)


def test_a_head_that_is_not_there_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="the checkpoint has no head sentence_classification_head"):
        Engine(read(checkpoint), "sentence_classification_head")


def test_pads_are_what_the_model_takes_for_pads(checkpoint: Path) -> None:
    assert build(read(checkpoint)).encoder.sentence_encoder.cfg.pad_index == PAD


def test_a_gpu_without_bfloat16_computes_in_float16(
    checkpoint: Path, rows: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated: the CPU, whose type for autocast is replaced."""
    compute = Compute("cpu", "bfloat16")
    exact = Engine(read(checkpoint), "mean").run(rows.ids)
    brain = Engine(read(checkpoint), "mean", compute).run(rows.ids)
    monkeypatch.setattr("linformer_fairseq.inference.engine.low_precision", lambda device: torch.float16)
    half = Engine(read(checkpoint), "mean", compute).run(rows.ids)
    assert 0 < np.abs(half - exact).max() < 0.5 * np.abs(brain - exact).max()
