"""Orders and masks are computed; every block of an epoch goes to one rank once, whatever loads it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary, MaskTokensDataset
from fairseq.data.iterators import GroupedIterator
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.errors import UsageError
from linformer_fairseq.tasks.batches import (
    BlockDataset,
    BlockIterator,
    Masking,
    Permutation,
    hashed,
)
from linformer_fairseq.tasks.blocks import CompleteBlocks, Windows


@given(size=st.integers(1, 3000), seed=st.integers(-(2**31), 2**31), epoch=st.integers(1, 100))
def test_has_every_number_once(size, seed, epoch):
    order = Permutation(size, seed, epoch)(np.arange(size))
    assert sorted(order.tolist()) == list(range(size))


@given(size=st.integers(1, 10**13), places=st.lists(st.integers(0, 10**13 - 1), min_size=1, max_size=20))
def test_a_place_holds_the_same_whatever_is_asked_with_it(size, places):
    places = np.array(places) % size
    order = Permutation(size, 1)
    together = order(places)
    assert together.tolist() == [order(places[i : i + 1])[0] for i in range(len(places))]
    assert (0 <= together).all() and (together < size).all()
    assert len(set(together.tolist())) == len(set(places.tolist()))


def test_looks_random():
    """Neighbours and orders of different keys are as uncorrelated as those of a drawn permutation."""
    one, other = (Permutation(100_000, 1, epoch)(np.arange(100_000)) for epoch in (1, 2))
    limit = 4 / np.sqrt(100_000)
    for pair in ((one, np.arange(100_000)), (one[1:], one[:-1]), (one, other), (np.diff(one)[1:], other[2:])):
        assert abs(np.corrcoef(*pair)[0, 1]) < limit


def test_small_orders_are_all_drawn():
    orders = {tuple(Permutation(4, seed)(np.arange(4)).tolist()) for seed in range(600)}
    assert len(orders) == 24


def test_hashes_are_broadcast_and_evenly_spread():
    hashes = hashed(1, np.arange(64)[:, None], np.arange(64))
    assert hashes.shape == (64, 64) and len(np.unique(hashes)) == 64 * 64
    bits = np.unpackbits(hashes.view(np.uint8)).reshape(-1, 64).mean(0)
    assert (abs(bits - 0.5) < 4 * 0.5 / 64).all()


SYMBOLS, LENGTH, ROWS = 505, 127, 1000  # 127 x 0.15 is no whole number
MASKING = Masking(0.15, 0.1, 0.1, special=4, mask=SYMBOLS - 1, pad=1, symbols=SYMBOLS, seed=1)


def rows_of_tokens(rows=ROWS):
    return np.random.default_rng(0).integers(4, SYMBOLS - 1, (rows, LENGTH))


def shares(tokens, source, target):
    """Of all tokens, those to be predicted; of these, those that are <mask>, another token, and as they were."""
    chosen = target != 1
    assert (target == np.where(chosen, tokens, 1)).all() and (source[~chosen] == tokens[~chosen]).all()
    seen, were = source[chosen], tokens[chosen]
    masked = seen == SYMBOLS - 1
    return np.array([chosen.mean(), masked.mean(), (~masked & (seen != were)).mean(), (seen == were).mean()])


def by_fairseq(tokens):
    dictionary = Dictionary()
    for number in range(SYMBOLS - 5):
        dictionary.add_symbol(f"w{number}")
    mask = dictionary.add_symbol("<mask>")
    assert (len(dictionary), mask) == (SYMBOLS, SYMBOLS - 1)
    datasets = MaskTokensDataset.apply_mask(torch.from_numpy(tokens), dictionary, pad_idx=1, mask_idx=mask, seed=1)
    return [np.stack([dataset[row].numpy() for row in range(len(tokens))]) for dataset in datasets]


def test_the_shares_are_those_of_fairseq():
    tokens = rows_of_tokens()
    source, target = MASKING(tokens, np.arange(ROWS), epoch=1)
    theirs_source, theirs_target = by_fairseq(tokens)
    ours, theirs = shares(tokens, source, target), shares(tokens, theirs_source, theirs_target)
    predicted = ROWS * LENGTH * 0.15
    assert ours[0] == pytest.approx(0.15, abs=1e-3) and theirs[0] == pytest.approx(0.15, abs=1e-3)
    assert ours[1:] == pytest.approx([0.8, 0.1, 0.1], abs=4 * np.sqrt(0.16 / predicted))
    assert theirs[1:] == pytest.approx(ours[1:], abs=6 * np.sqrt(0.16 / predicted))
    counts, theirs_counts = ((found != 1).sum(1) for found in (target, theirs_target))  # rounded up or down, no more
    assert set(counts) == set(theirs_counts) == {19, 20}


def test_every_place_and_every_token_has_its_turn():
    source, target = MASKING(rows_of_tokens(8000), np.arange(8000), epoch=1)
    places = (target != 1).sum(0)
    assert abs(places - 1200).max() < 5 * np.sqrt(8000 * 0.15 * 0.85)
    drawn = source[(target != 1) & (source != target) & (source != MASKING.mask)]
    counts = np.bincount(drawn, minlength=SYMBOLS)
    assert counts[:4].sum() == counts[MASKING.mask] == 0
    assert abs(counts[4:-1] - len(drawn) / 500).max() < 5 * np.sqrt(len(drawn) / 500)


@given(st.lists(st.lists(st.integers(0, SYMBOLS - 1), min_size=10, max_size=10), min_size=1, max_size=8))
def test_special_symbols_are_never_predicted_nor_replaced(rows):
    tokens = np.array(rows)
    source, target = replace(MASKING, probability=0.9)(tokens, np.arange(len(rows)), epoch=1)
    special = (tokens < 4) | (tokens == MASKING.mask)
    assert (target[special] == 1).all() and (source[special] == tokens[special]).all()
    assert (source[~special] >= 4).all()
    count = (~special).sum(1) * 0.9
    assert (abs((target != 1).sum(1) - count) < 1).all()


def test_a_row_has_the_same_masks_in_any_batch_and_others_in_another_epoch_or_with_another_seed():
    tokens = rows_of_tokens(20)
    numbers = np.arange(20) * 10**9
    source, target = MASKING(tokens, numbers, epoch=3)
    some = np.array([7, 2, 19])
    padded = np.concatenate([tokens[some], np.ones((3, 50), int)], 1)
    again_source, again_target = MASKING(padded, numbers[some], epoch=3)
    assert (again_source[:, :LENGTH] == source[some]).all() and (again_target[:, :LENGTH] == target[some]).all()
    others = MASKING(tokens, numbers, epoch=4)[1], replace(MASKING, seed=2)(tokens, numbers, epoch=3)[1]
    chosen = target != 1
    for other in others:
        assert (chosen & (other != 1)).sum() / chosen.sum() < 0.25  # 0.15 by chance
    first, second = chosen[:10], chosen[10:]
    assert (first & second).sum() / first.sum() < 0.25


@pytest.mark.parametrize(("leave", "random", "expected"), [(0, 0, [1, 0, 0]), (1, 0, [0, 0, 1]), (0, 1, [0, 1, 0])])
def test_a_share_may_be_none_or_all(leave, random, expected):
    tokens = rows_of_tokens(50)
    source, target = replace(MASKING, leave=leave, random=random)(tokens, np.arange(50), epoch=1)
    assert shares(tokens, source, target)[1:] == pytest.approx(expected, abs=0.01)  # a token may be drawn as it was


BATCH_MASKING = Masking(0.15, 0.1, 0.1, special=4, mask=1000, pad=1, symbols=1001, seed=1)
BOS, PAD = 0, 1


@pytest.fixture(scope="module")
def dataset(write_split, tmp_path_factory):
    """Blocks of whole sentences of up to 63 tokens."""
    rng = np.random.default_rng(0)
    file = write_split(tmp_path_factory.mktemp("data") / "train", rng.integers(2, 30, 700).tolist())
    return BlockDataset(file, CompleteBlocks(file, 63), BATCH_MASKING, BOS)


def iterator(dataset, batch_size=8, **options):
    return BlockIterator(dataset, batch_size, **{"seed": 5, "num_workers": 0, **options})


def assert_same_batches(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert bool(one) == bool(other)
        if not one:  # the rank has one less than others
            continue
        assert one["id"].tolist() == other["id"].tolist() and one["ntokens"] == other["ntokens"]
        assert torch.equal(one["target"], other["target"])
        assert all(torch.equal(one["net_input"][key], other["net_input"][key]) for key in one["net_input"])


class Numbers(BlockDataset):
    """A batch is the numbers of its blocks."""

    def __init__(self, count):
        self.count, self.epoch = count, 1

    def __len__(self):
        return self.count

    def batch(self, numbers, epoch):
        return numbers.tolist()


def numbers_of(count, batch_size, ranks, rank):
    return list(iterator(Numbers(count), batch_size, num_shards=ranks, shard_id=rank).next_epoch_itr())


@given(count=st.integers(1, 400), batch_size=st.integers(1, 20), ranks=st.integers(1, 9))
def test_every_block_goes_to_one_rank_once_in_balance(count, batch_size, ranks):
    shares = [numbers_of(count, batch_size, ranks, rank) for rank in range(ranks)]
    assert sorted(number for share in shares for batch in share for number in batch) == list(range(count))
    full = [sum(map(bool, share)) for share in shares]
    assert max(full) - min(full) <= 1
    assert len({len(share) for share in shares}) == 1
    # The order of blocks does not depend on the number of ranks.
    turns = [batch for turn in zip(*shares, strict=True) for batch in turn if batch]
    assert turns == numbers_of(count, batch_size, 1, 0)


def test_a_batch_is_what_masked_lm_makes(dataset):
    batch = dataset.batch(np.array([3, 0, 11]), epoch=1)
    starts, lengths = dataset.blocks.spans(np.array([3, 0, 11]))
    source, target = batch["net_input"]["src_tokens"], batch["target"]
    assert source.shape == target.shape == (3, lengths.max() + 1) and source.dtype == target.dtype == torch.int64
    assert batch["net_input"]["src_lengths"].tolist() == (lengths + 1).tolist()
    assert batch["ntokens"] == lengths.sum() + 3 and batch["nsentences"] == 3
    assert source[:, 0].tolist() == [BOS] * 3
    text = dataset.file.read(starts, lengths)
    for row in range(3):
        length = lengths[row]
        predicted = target[row] != PAD
        assert predicted.sum() > 0 and not predicted[0] and not predicted[length + 1 :].any()
        assert (source[row, length + 1 :] == PAD).all()
        original = torch.where(predicted, target[row], source[row])[1 : length + 1]
        assert original.tolist() == text[row, :length].tolist()


@pytest.mark.parametrize("options", [{"num_workers": 1}, {"num_workers": 2}, {"num_workers": 2, "buffer_size": 10}])
def test_who_loads_them_makes_no_difference(dataset, options):
    alone, loaded = (iterator(dataset, **chosen) for chosen in ({}, options))
    assert_same_batches(list(alone.next_epoch_itr()), list(loaded.next_epoch_itr()))
    assert_same_batches(list(alone.next_epoch_itr()), list(loaded.next_epoch_itr()))  # and in the next epoch


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("epoch", [1, 2])
def test_resumes_where_it_was_saved(dataset, epoch, workers):
    whole = iterator(dataset, num_shards=2, shard_id=1)
    for _ in range(epoch):
        batches = list(whole.next_epoch_itr())
    stopped = iterator(dataset, num_shards=2, shard_id=1, num_workers=workers, buffer_size=3)
    for _ in range(epoch - 1):
        list(stopped.next_epoch_itr())
    running = stopped.next_epoch_itr()
    first = [next(running) for _ in range(3)]
    resumed = iterator(dataset, num_shards=2, shard_id=1, num_workers=workers)
    resumed.load_state_dict(stopped.state_dict())
    assert (resumed.epoch, resumed.iterations_in_epoch, len(resumed)) == (epoch, 3, len(batches))
    assert_same_batches(first + list(resumed.next_epoch_itr()), batches)
    assert resumed.state_dict() == {**whole.state_dict(), "epoch": epoch + 1, "iterations_in_epoch": 0}


def test_an_epoch_ends_and_the_next_one_has_another_order_and_other_masks(dataset):
    batches = iterator(dataset)
    assert len(batches) == -(-len(dataset) // 8)
    grouped = list(GroupedIterator(batches.next_epoch_itr(), 2))
    assert [len(group) for group in grouped] == [2] * (len(batches) // 2) + [1] * (len(batches) % 2)
    assert batches.end_of_epoch() and batches.next_epoch_idx == 2
    first = torch.cat([batch["id"] for group in grouped for batch in group])
    second = torch.cat([batch["id"] for batch in batches.next_epoch_itr()])
    assert first.sort()[0].tolist() == second.sort()[0].tolist() == list(range(len(dataset)))
    assert first.tolist() != second.tolist()
    masks = [(dataset.batch(np.arange(8), epoch)["target"] != PAD) for epoch in (1, 2)]
    assert not torch.equal(*masks)


def test_validation_has_the_same_order_and_masks_each_time(dataset):
    dataset.set_epoch(1)
    batches = iterator(dataset)
    once, again = (list(batches.next_epoch_itr(shuffle=False, set_dataset_epoch=False)) for _ in range(2))
    assert_same_batches(once, again)
    assert torch.cat([batch["id"] for batch in once]).tolist() == list(range(len(dataset)))


def test_the_last_batch_can_be_left_out(dataset):
    assert len(list(iterator(dataset, skip_remainder_batch=True).next_epoch_itr())) == len(dataset) // 8


def test_a_rank_without_a_batch_gets_an_empty_one_and_has_something_to_compute(write_split, tmp_path):
    file = write_split(tmp_path / "train", [10] * 3)
    data = BlockDataset(file, Windows(file, 10), BATCH_MASKING, BOS)
    batches = BlockIterator(data, 2, num_shards=3, shard_id=2)
    assert list(batches.next_epoch_itr()) == [{}]
    assert batches.first_batch["nsentences"] == 2


def test_a_token_that_the_dictionary_lacks_is_named(write_split, tmp_path):
    file = write_split(tmp_path / "train", [10] * 30)
    small = Masking(0.15, 0.1, 0.1, special=4, mask=9, pad=1, symbols=10, seed=1)
    with pytest.raises(UsageError, match=r"train\.bin: token \d+ is not among the 10 symbols of dict\.txt"):
        _ = BlockIterator(BlockDataset(file, Windows(file, 20), small, BOS), 8).first_batch
