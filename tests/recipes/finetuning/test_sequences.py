"""The model's input, and the folder that fairseq trains on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from fairseq.tasks import setup_task
from finetuning.sequences import batches_of_like_length, encode, fit, write_data
from hypothesis import given
from hypothesis import strategies as st

from data_prep import encoders
from linformer_fairseq.compat.errors import UsageError


@given(lengths=st.lists(st.integers(0, 200), min_size=1, max_size=2), room=st.integers(4, 120))
def test_the_longer_text_is_shortened_first(lengths: list[int], room: int) -> None:
    cut = fit(lengths, room)
    assert sum(cut) == min(sum(lengths), room) and all(0 <= c <= n for c, n in zip(cut, lengths, strict=True))
    if len(lengths) == 2 and cut != lengths:
        short, long = sorted(range(2), key=lambda i: lengths[i])
        assert cut[short] == lengths[short] or abs(cut[0] - cut[1]) <= 1
        assert cut[long] >= cut[short] - 1


def test_special_symbols_stand_where_roberta_has_them(tokenizer: Path) -> None:
    encoder = encoders.load(tokenizer)
    one, two = (encoder.encode([text])[0].tolist() for text in ("the river", "a good book"))
    assert encode([("the river",)], encoder, 64).ids[0].tolist() == [0, *one, 2]
    assert encode([("the river", "a good book")], encoder, 64).ids[0].tolist() == [0, *one, 2, 2, *two, 2]


@pytest.mark.parametrize(("keep", "head"), [("head", 14), ("head-tail", 3)])
def test_what_is_kept_of_a_long_text(keep: str, head: int, tokenizer: Path) -> None:
    encoder = encoders.load(tokenizer)
    text = " ".join(f"{word} river" for word in "the a garden child teacher book city winter letter good bad".split())
    whole = encoder.encode([text])[0].tolist()
    rows = encode([(text,), ("a book",)], encoder, 16, keep)
    assert rows.longer == 1 and len(rows.ids[0]) == 16
    assert rows.ids[0].tolist() == [0, *whole[:head], *whole[len(whole) - (14 - head) :][: 14 - head], 2]


def test_chunks_hold_all_of_a_long_text(tokenizer: Path) -> None:
    encoder = encoders.load(tokenizer)
    text = " ".join(f"{word} river" for word in "the a garden child teacher book city winter letter good bad".split())
    whole = encoder.encode([text])[0].tolist()
    rows = encode([("a book",), (text,), ("winter",)], encoder, 16, "chunks")
    chunks = [ids.tolist() for ids, owner in zip(rows.ids, rows.owners, strict=True) if owner == 1]
    assert rows.longer == 1 and len(chunks) == -(-len(whole) // 14) and rows.owners.tolist()[-1] == 2
    assert all(chunk[0] == 0 and chunk[-1] == 2 and len(chunk) <= 16 for chunk in chunks)
    assert [token for chunk in chunks for token in chunk[1:-1]] == whole
    assert max(map(len, chunks)) - min(map(len, chunks)) <= 1
    assert rows.of_rows([0.0, 1.0, 0.0]) == [0.0, *[1.0] * len(chunks), 0.0]
    with pytest.raises(UsageError, match="--keep chunks is for one text a row"):
        encode([("a", "b")], encoder, 16, "chunks")


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300), batch=st.integers(1, 8), seed=st.integers(0, 9))
def test_batches_of_like_length_lose_no_row_and_save_pads(lengths: list[int], batch: int, seed: int) -> None:
    order = batches_of_like_length(lengths, batch, seed)
    assert sorted(order) == list(range(len(lengths)))
    np.testing.assert_array_equal(order, batches_of_like_length(lengths, batch, seed))

    def padded(order: np.typing.NDArray[np.int64]) -> int:
        cut = [order[i : i + batch] for i in range(0, len(order), batch)]
        return sum(len(part) * max(lengths[i] for i in part) for part in cut)

    by_chance = padded(np.random.default_rng(seed).permutation(len(lengths)))
    assert padded(order) <= by_chance + batch * max(lengths)  # the last batch may be a small one


@pytest.mark.parametrize("classes", [("no", "yes", "perhaps"), ()])
def test_fairseq_reads_every_row_and_target(classes: tuple[str, ...], tokenizer: Path, tmp_path: Path) -> None:
    rows = encode([("the river",), ("a good book",), ("winter",)], encoders.load(tokenizer), 64)
    targets = [2.0, 0.0, 1.0] if classes else [0.25, 5.0, 3.5]
    write_data(tmp_path, tokenizer / "dict.txt", {"train": (rows, targets), "valid": (rows, targets)}, classes)
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
