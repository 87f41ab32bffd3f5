"""The folder that fairseq trains on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from fairseq.tasks import setup_task
from hypothesis import given
from hypothesis import strategies as st

from data_prep import encoders
from linformer_fairseq.finetuning.data import length_bucketed_order, write_data
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.inference.sequences import encode


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300), batch=st.integers(1, 8), seed=st.integers(0, 9))
def test_length_bucketed_batches_have_every_row_and_less_padding(lengths: list[int], batch: int, seed: int) -> None:
    order = length_bucketed_order(lengths, batch, seed)
    assert sorted(order) == list(range(len(lengths)))
    np.testing.assert_array_equal(order, length_bucketed_order(lengths, batch, seed))

    def padded(order: np.typing.NDArray[np.int64]) -> int:
        cut = [order[i : i + batch] for i in range(0, len(order), batch)]
        return sum(len(part) * max(lengths[i] for i in part) for part in cut)

    by_chance = padded(np.random.default_rng(seed).permutation(len(lengths)))
    assert padded(order) <= by_chance + batch * max(lengths)  # the last batch may be a small one


@pytest.mark.parametrize("classes", [("no", "yes", "perhaps"), ()])
def test_fairseq_reads_every_row_and_target(classes: tuple[str, ...], tokenizer: Path, tmp_path: Path) -> None:
    rows = encode([("the river",), ("a good book",), ("winter",)], encoders.load(tokenizer), 64)
    targets = [2.0, 0.0, 1.0] if classes else [0.25, 5.0, 3.5]
    splits = dict.fromkeys(("train", "valid"), (rows, np.array(targets)))
    write_data(tmp_path, tokenizer / "dict.txt", splits, Labels(classes, 1))
    cfg = Namespace(task="sentence_prediction", data=str(tmp_path), num_classes=3 if classes else 1, seed=1)
    for name, value in (("init_token", None), ("separator_token", None), ("no_shuffle", True), ("max_positions", 64)):
        setattr(cfg, name, value)
    for name in ("d2v2_multi", "add_prev_output_tokens"):
        setattr(cfg, name, False)
    cfg.shorten_method, cfg.shorten_data_split_list = "none", ""
    cfg.regression_target, cfg.classification_head_name = not classes, "sentence_classification_head"
    task = setup_task(cfg)
    task.load_dataset("train")
    dataset = task.dataset("train")
    found = []
    for i in range(len(dataset)):
        sample = dataset.collater([dataset[i]])
        found.append((sample["net_input"]["src_tokens"][0].tolist(), float(sample["target"].view(-1)[0])))
    assert sorted(found) == sorted((ids.tolist(), target) for ids, target in zip(rows.ids, targets, strict=True))
