"""Rows of texts: their batches, an order that is new in every epoch, and training that resumes to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.data import write_items
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.tasks import text_pairs
from linformer_fairseq.tasks.text_pairs import TextPairsTask

ROWS = 20


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A query and a passage a row, with a hard negative in training; row i has the symbol 4 + i."""
    chance = np.random.default_rng(1)
    for split, columns in (("train", 3), ("valid", 2)):
        for number in range(columns):
            texts = [[0, 4 + row, *chance.integers(30, 40, chance.integers(2, 12)), 2] for row in range(ROWS)]
            write_items(tmp_path / f"pairs/text{number}/{split}", [np.array(text) for text in texts])
    (tmp_path / "pairs/dict.txt").write_text("".join(f"s{i} 1\n" for i in range(40)))
    return tmp_path / "pairs"


def task(data: Path) -> TextPairsTask:
    config: Any = SimpleNamespace(data=str(data), seed=3)
    return TextPairsTask.setup_task(config)


def test_a_batch_has_all_queries_then_all_passages(data: Path) -> None:
    made = task(data)
    made.load_dataset("valid")
    dataset = made.dataset("valid")
    assert dataset.ordered_indices().tolist() == list(range(ROWS)) and dataset.can_reuse_epoch_itr_across_epochs
    batch = dataset.collater([dataset[row] for row in (5, 7)])
    tokens = batch["net_input"]["src_tokens"]
    assert batch["nsentences"] == 2 and batch["ntokens"] == int(tokens.ne(1).sum())
    assert tokens[:, 1].tolist() == [9, 11, 9, 11] and tokens[:, 0].tolist() == [0] * 4
    assert dataset.size(5) == max(map(len, dataset[5]))


def test_every_epoch_has_other_batches_and_a_resumed_one_the_same(data: Path) -> None:
    made = task(data)
    made.load_dataset("train")

    def batches(epoch: int) -> set[tuple[int, ...]]:
        iterator = made.get_batch_iterator(made.dataset("train"), max_sentences=4, epoch=epoch, seed=1)
        found = list(iterator.next_epoch_itr(shuffle=True))
        assert all(batch["net_input"]["src_tokens"].size(0) == 12 for batch in found)
        return {tuple(sorted(batch["net_input"]["src_tokens"][:4, 1].tolist())) for batch in found}

    one, two = batches(1), batches(2)
    assert one != two == batches(2) and one == batches(1)
    assert sorted(row for batch in two for row in batch) == list(range(4, 4 + ROWS))


def test_a_split_without_pairs_is_refused(data: Path) -> None:
    (data / "text1/valid.idx").unlink()
    with pytest.raises(UsageError, match="has no text0/valid and text1/valid"):
        task(data).load_dataset("valid")


def test_all_processes_have_as_many_batches(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = task(data)
    made.load_dataset("train")
    dataset, rows = made.dataset("train"), np.arange(ROWS)
    for processes, sizes in ((1, [6, 6, 6, 2]), (3, [3, 3, 3, 3, 6, 2]), (2, [6, 6, 6, 2])):
        monkeypatch.setattr(text_pairs, "get_data_parallel_world_size", lambda found=processes: found)
        batches = dataset.batch_by_size(rows, max_sentences=6)
        assert [len(batch) for batch in batches] == sizes and np.concatenate(batches).tolist() == rows.tolist()
    monkeypatch.setattr(text_pairs, "get_data_parallel_world_size", lambda: 21)
    with pytest.raises(UsageError, match="DATA has 20 rows for 21 processes; use more rows or fewer processes"):
        dataset.batch_by_size(rows, max_sentences=6)


@pytest.mark.slow
def test_training_resumes_to_the_bit_and_two_processes_train(
    data: Path, tmp_path: Path, run_fairseq: Callable[..., Any], same_end: Callable[[Path, Path], None], srun: Any
) -> None:
    words: list[object] = ["fairseq-train", data, "--user-dir", USER_DIR, "--task", "text_pairs", "--cpu"]
    words += [
        "--criterion",
        "contrastive",
        "--chunk-rows",
        3,
        "--arch",
        "linformer_roberta_tiny",
        "--max-positions",
        32,
    ]
    words += ["--encoder-layers", 1, "--encoder-embed-dim", 16, "--encoder-ffn-embed-dim", 32, "--dropout", 0.1]
    words += ["--encoder-attention-heads", 2, "--projected-length", 8, "--optimizer", "fused_adamw", "--lr", "1e-2"]
    words += [
        "--batch-size",
        4,
        "--batch-size-valid",
        ROWS,
        "--required-batch-size-multiple",
        1,
        "--lr-scheduler",
        "fixed",
        "--log-format",
        "json",
    ]
    words += ["--no-epoch-checkpoints", "--log-interval", 1, "--tokens-per-sample", 32]
    words += ["--best-checkpoint-metric", "ndcg@10", "--maximize-best-checkpoint-metric"]
    for folder, updates in (("whole", 7), ("parts", 6), ("parts", 7)):  # an epoch has 5
        output = run_fairseq(*words, "--save-dir", tmp_path / folder, "--max-update", updates).stdout
    assert '"valid_loss"' in output and '"valid_ndcg@10"' in output
    same_end(tmp_path / "whole", tmp_path / "parts")
    launcher, environment = srun
    output = run_fairseq(*launcher, *words, "--save-dir", tmp_path / "two", "--max-epoch", 1, env=environment).stdout
    assert "training on 2 devices" in output and '"valid_num_updates": "3"' in output
    assert (tmp_path / "two/checkpoint_best.pt").exists()
