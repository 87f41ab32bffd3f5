"""Predictions do not depend on batches, and come from a checkpoint that fits."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, read, write
from linformer_fairseq.checkpoints.names import DEFAULT_HEAD
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.engine import Compute, Engine
from linformer_fairseq.inference.predict import Labels, labels_of, predict
from linformer_fairseq.inference.sequences import encode, tokenizer_of

LABELS = Labels(("no", "yes"), 1)


@pytest.fixture(scope="module")
def tuned(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The small checkpoint with a random head of two classes, written and read again."""
    source = read(checkpoint)
    model = build(source)
    torch.manual_seed(1)
    model.register_classification_head(DEFAULT_HEAD, num_classes=2)
    path = tmp_path_factory.mktemp("tuned") / "model.pt"
    write(Checkpoint(model.state_dict(), source.model, source.task, 3, [LABELS.note(source.data)]), path)
    return read(path)


def test_batches_order_and_padding_change_nothing(tuned: Checkpoint) -> None:
    chance = random.Random(0)
    texts = [
        (" ".join(chance.choices("river garden child book city".split(), k=chance.randint(1, 80))),) for _ in "x" * 60
    ]
    tokenizer = tokenizer_of(tuned, None)
    rows, engine = encode(texts, tokenizer, 64), Engine(tuned, DEFAULT_HEAD)
    assert 0 < rows.longer < 60
    single = Engine(tuned, DEFAULT_HEAD, Compute(batch_tokens=1))
    together, alone = engine.rows(rows), single.rows(rows)
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    order = chance.sample(range(60), 60)
    shuffled = engine.rows(encode([texts[i] for i in order], tokenizer, 64))
    np.testing.assert_allclose(shuffled, together[order], rtol=0, atol=1e-5)
    assert predict(tuned, tokenizer, texts) == [LABELS.classes[i] for i in together.argmax(1)]


def test_the_answer_to_a_text_in_chunks_is_the_mean_of_theirs(tuned: Checkpoint) -> None:
    texts = [("river",), (" ".join(["garden book city"] * 60),), ("winter",)]
    rows, engine = encode(texts, tokenizer_of(tuned, None), 64, "chunks"), Engine(tuned, DEFAULT_HEAD)
    each, pooled = engine.run(rows.ids), engine.rows(rows)
    assert len(pooled) == 3 and len(each) > 4
    np.testing.assert_allclose(pooled, [each[0], each[1:-1].mean(0), each[-1]], rtol=0, atol=1e-6)


def test_what_a_checkpoint_predicts_is_in_it(tuned: Checkpoint, checkpoint: Path) -> None:
    assert labels_of(tuned) == LABELS
    with pytest.raises(UsageError, match="--checkpoint was not fine-tuned"):
        labels_of(read(checkpoint))


def test_a_tokenizer_that_does_not_fit_is_refused(tuned: Checkpoint, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data names the folder that the checkpoint was pretrained on"):
        tokenizer_of(tuned, tmp_path)
    other = tmp_path / "other"
    shutil.copytree(tokenizer, other)
    lines = (other / "dict.txt").read_text().splitlines(keepends=True)
    (other / "dict.txt").write_text("".join([*lines[:-1], lines[-1].replace(" ", " 9")]))
    with pytest.raises(UsageError, match="dict.txt is not the one of the fine-tuning"):
        tokenizer_of(tuned, other)
    tuned.state = {k: v[:-1] if v.size()[:1] == (320,) else v for k, v in tuned.state.items()}
    with pytest.raises(UsageError, match="its dictionary has 320 symbols and the checkpoint 319"):
        tokenizer_of(tuned, tokenizer)
