"""The model's input. Batches hold every sequence once, keep to the limit and save padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import encoders
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.sequences import encode, fit, like_length


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
    with pytest.raises(UsageError, match="--keep chunks is for one text a row"):
        encode([("a", "b")], encoder, 16, "chunks")


LENGTHS = st.lists(st.integers(1, 500), max_size=200)


@given(lengths=LENGTHS, batch_tokens=st.integers(1, 4000))
def test_every_sequence_is_in_one_batch_within_the_limit(lengths: list[int], batch_tokens: int) -> None:
    batches = like_length(lengths, batch_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    padded = [len(batch) * max(lengths[i] for i in batch) for batch in batches]
    assert all(size <= batch_tokens or len(batch) == 1 for size, batch in zip(padded, batches, strict=True))
    if batches:
        assert padded[0] == max(padded)
        assert [b.tolist() for b in batches] == [b.tolist() for b in like_length(lengths, batch_tokens)]


def pads(lengths: list[int], batches: list[np.typing.NDArray[np.int64]]) -> float:
    return sum(len(b) * max(lengths[i] for i in b) for b in batches) / sum(lengths) - 1


@pytest.mark.parametrize("count", [8, 64, 1000])
def test_sequences_of_like_length_have_few_pads(count: int) -> None:
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(16), np.log(4096), count)).astype(int).tolist()
    assert pads(lengths, like_length(lengths, 8192)) < 0.04 < 0.3 < pads(lengths, [np.arange(count)])


@pytest.mark.parametrize(
    "lengths, overhead, batches",
    [
        ([500] * 5, 0, 1),
        ([500, 16], 64, 2),
        ([500, 16], 1000, 1),
        ([500, 490, 20, 16], 64, 2),
        ([], 64, 0),
        ([9000, 20], 64, 2),
        ([2000] * 5, 64, 2),
    ],
)
def test_a_batch_is_split_where_its_pads_cost_more_than_another_batch(
    lengths: list[int], overhead: int, batches: int
) -> None:
    assert len(like_length(lengths, 8192, overhead)) == batches
