"""As much is masked as by fairseq, of the same kinds, and the masks of a row are its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary, MaskTokensDataset
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.tasks.masking import Masking

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
