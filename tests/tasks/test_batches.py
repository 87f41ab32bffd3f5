"""Batches: every block of an epoch goes to one rank, in balance, the same whatever loads it and wherever they begin."""

import numpy as np
import pytest
import torch
from fairseq.data.iterators import GroupedIterator
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.errors import UsageError
from linformer_fairseq.tasks.batches import BlockDataset, BlockIterator, Request, Requests
from linformer_fairseq.tasks.blocks import Windows
from linformer_fairseq.tasks.complete_blocks import CompleteBlocks
from linformer_fairseq.tasks.masking import Masking
from linformer_fairseq.tasks.permutation import Permutation

MASKING = Masking(0.15, 0.1, 0.1, special=4, mask=1000, pad=1, symbols=1001, seed=1)
BOS, PAD = 0, 1


@pytest.fixture(scope="module")
def dataset(write_split, tmp_path_factory):
    """Blocks of whole sentences of up to 63 tokens."""
    rng = np.random.default_rng(0)
    file = write_split(tmp_path_factory.mktemp("data") / "train", rng.integers(2, 30, 700).tolist())
    return BlockDataset(file, CompleteBlocks(file, 63), MASKING, BOS)


def iterator(dataset, **options):
    return BlockIterator(dataset, 8, **{"seed": 5, "num_workers": 0, **options})


def assert_same_batches(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert bool(one) == bool(other)
        if not one:  # the rank has one less than others
            continue
        assert one["id"].tolist() == other["id"].tolist() and one["ntokens"] == other["ntokens"]
        assert torch.equal(one["target"], other["target"])
        assert all(torch.equal(one["net_input"][key], other["net_input"][key]) for key in one["net_input"])


def numbers_of(count, batch_size, ranks, rank, offset=0, order=None):
    requests = Requests(count, batch_size, ranks, rank, epoch=1)
    requests.offset, requests.order = offset, order
    found = [request.numbers.tolist() for request in requests]
    assert len(found) == len(requests)
    return found


@given(count=st.integers(1, 400), batch_size=st.integers(1, 20), ranks=st.integers(1, 9), done=st.integers(0, 5))
def test_every_block_goes_to_one_rank_once_in_balance(count, batch_size, ranks, done):
    order = Permutation(count, 7)
    shares = [numbers_of(count, batch_size, ranks, rank, order=order) for rank in range(ranks)]
    assert sorted(number for share in shares for batch in share for number in batch) == list(range(count))
    full = [sum(map(bool, share)) for share in shares]
    assert max(full) - min(full) <= 1
    assert len({len(share) for share in shares}) == 1
    # The order of blocks does not depend on the number of ranks, and the rest of an epoch is what a resumed one gets.
    turns = [batch for turn in zip(*shares, strict=True) for batch in turn if batch]
    assert turns == numbers_of(count, batch_size, 1, 0, order=order)
    rest = numbers_of(count, batch_size, ranks, ranks - 1, min(done, len(shares[0])), order)
    assert rest == shares[-1][done:]


def test_a_batch_is_what_masked_lm_makes(dataset):
    batch = dataset[Request(np.array([3, 0, 11]), epoch=1)]
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
def test_goes_on_where_it_was_saved(dataset, epoch, workers):
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
    masks = [(dataset[Request(np.arange(8), epoch)]["target"] != PAD) for epoch in (1, 2)]
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
    data = BlockDataset(file, Windows(file, 10), MASKING, BOS)
    batches = BlockIterator(data, 2, num_shards=3, shard_id=2)
    assert list(batches.next_epoch_itr()) == [{}]
    assert batches.first_batch["nsentences"] == 2


def test_a_token_that_the_dictionary_lacks_is_named(write_split, tmp_path):
    file = write_split(tmp_path / "train", [10] * 30)
    small = Masking(0.15, 0.1, 0.1, special=4, mask=9, pad=1, symbols=10, seed=1)
    with pytest.raises(UsageError, match=r"train\.bin: token \d+ is not among the 10 symbols of dict\.txt"):
        _ = BlockIterator(BlockDataset(file, Windows(file, 20), small, BOS), 8).first_batch
