"""Near duplicates are found, others are not, and the work stays linear where many documents are alike."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash

from data_prep.text.minhash import (
    REPRESENTATIVES,
    Comparison,
    NearDuplicates,
    Signatures,
    band_hashes,
    first_equal,
    own_run,
    sketches,
)
from data_prep.text.words import Hashes, ngram_hashes, words

CONFIG = NearDuplicates()


def signatures(texts: list[str], config: NearDuplicates) -> Signatures:
    return sketches(texts, config)[0]


def groups(found: Signatures) -> tuple[list[int], int]:
    bands, rows = CONFIG.bands_and_rows()
    hashes = [band_hashes(band) for band in np.split(found[:, : bands * rows], bands, axis=1)]
    return joined(hashes, found)


def joined(bands: list[Hashes], found: Signatures) -> tuple[list[int], int]:
    comparison = Comparison(found, CONFIG.threshold)
    first = first_equal(np.array([hash(row.tobytes()) for row in found]))
    alive = np.flatnonzero(first == np.arange(len(first)))
    repeated = comparison.join([comparison.band(hashes, alive) for hashes in bands], first)
    return repeated.tolist(), comparison.count


def text(rng: random.Random, count: int) -> list[str]:
    return [f"w{rng.randrange(50_000)}" for _ in range(count)]


def jaccard(a: str, b: str) -> float:
    x, y = (set(ngram_hashes(words(t).hashes, 5).tolist()) for t in (a, b))
    return len(x & y) / len(x | y)


def test_signatures_are_datasketchs_and_estimate_the_jaccard_index() -> None:
    rng = random.Random(1)
    source = text(rng, 2000)
    other = source[:1700] + text(rng, 300)
    a, b = " ".join(source), " ".join(other)
    found = signatures([a, b], CONFIG)
    assert found.dtype == np.uint32 and found.shape == (2, 128)
    one_by_one = MinHash(128, scheme="affine32", hashfunc=int)
    for gram in ngram_hashes(words(a).hashes, 5):
        one_by_one.update(int(gram) >> 32)
    assert np.array_equal(one_by_one.hashvalues, found[0])
    assert abs(np.mean(found[0] == found[1]) - jaccard(a, b)) < 0.12


def test_case_punctuation_and_layout_do_not_count() -> None:
    a, b = "One, two; three four FIVE six.\nSeven!", "one two three four five six seven"
    assert np.array_equal(*signatures([a, b], CONFIG))


@pytest.mark.parametrize("pair", [("", "!"), ("?", "!"), ("one", "two"), ("你好", "你们")])
def test_tiny_texts_are_alike_only_if_equal(pair: tuple[str, str]) -> None:
    assert groups(signatures([*pair, *pair], CONFIG))[0] == [-1, -1, 0, 1]


def test_near_duplicates_are_found_and_others_are_not() -> None:
    rng = random.Random(2)
    texts, changed_words = [], {}
    for i in range(300):
        source = text(rng, 400)
        copy = list(source)
        # One changed word takes five shingles: 0 to 30 of them give a Jaccard index from 1 down to 0.45.
        for place in rng.sample(range(400), i % 31):
            copy[place] = "changed"
        texts += [" ".join(source), " ".join(copy)]
        changed_words[2 * i + 1] = jaccard(texts[-2], texts[-1])
    first, _ = groups(signatures(texts, CONFIG))
    assert all(first[i] in (-1, i - 1) for i in range(600)) and set(first[::2]) == {-1}
    found = [first[i] >= 0 for i, j in changed_words.items() if j >= 0.88]
    assert len(found) >= 60 and np.mean(found) >= 0.97
    false = [first[i] >= 0 for i, j in changed_words.items() if j <= 0.68]
    assert len(false) > 60 and np.mean(false) <= 0.03


def test_equal_documents_are_not_compared_and_others_once_a_band() -> None:
    found = np.repeat(signatures(["the very same text in all of these documents"], CONFIG), 100_000, axis=0)
    assert groups(found) == ([-1] + [0] * 99_999, 0)
    found[:, -1] = np.arange(100_000)
    assert groups(found) == ([-1] + [0] * 99_999, 99_999 * (CONFIG.bands_and_rows()[0] - 1))  # they differ in one


def test_unlike_documents_in_one_bucket_need_a_bounded_number_of_comparisons() -> None:
    found = np.random.default_rng(0).integers(0, 2**32, (5000, 128), np.uint32)
    bucket = [np.zeros(5000, np.uint64)]
    first, comparisons = joined(bucket, found)
    assert set(first) == {-1}
    assert comparisons <= 5000 * REPRESENTATIVES


def test_a_document_is_dropped_beside_one_that_stays_and_that_it_is_like(tmp_path: Path) -> None:
    found = np.random.default_rng(0).integers(0, 2**32, (8, 10), np.uint32)
    found[5] = found[1]
    found[5, :2] = 0  # like 1
    found[3] = found[5]
    found[3, 2:4] = 0  # like 5, not like 1
    found[7] = found[0]
    np.save(tmp_path / "signatures.npy", found)
    mapped = np.load(tmp_path / "signatures.npy", mmap_mode="r")
    apart = np.arange(8, dtype=np.uint64)
    ab, bc = apart.copy(), apart.copy()
    ab[[1, 5]] = 100
    bc[[3, 5]] = 100
    ab[[0, 7]] = 101
    for bands in ([ab, bc], [bc, ab]):
        assert joined(bands, mapped)[0] == [-1, -1, -1, -1, -1, 1, -1, 0]


def test_the_ends_of_a_chain_of_revisions_stay() -> None:
    rng = random.Random(3)
    revision, texts = text(rng, 400), []
    for _ in range(60):
        texts.append(" ".join(revision))
        revision = revision[20:] + text(rng, 20)
    found = signatures(texts, CONFIG)
    first, _ = groups(found)
    kept = [i for i, repeats in enumerate(first) if repeats < 0]
    assert 10 <= len(kept) <= 45 and kept[0] == 0
    for i, repeats in enumerate(first):
        if repeats >= 0:
            assert first[repeats] < 0 and np.mean(found[i] == found[repeats]) >= CONFIG.threshold


def test_an_own_text_is_a_run_of_words_and_not_changes_here_and_there() -> None:
    rng = random.Random(4)
    page = text(rng, 2000)
    own = [text(rng, 150) for _ in range(2)]
    scattered = [word if rng.random() > 0.03 else "changed" for word in page]
    pages = [page + own[0], page + own[1], page[:900] + own[1] + page[900:], page, scattered]
    samples = sketches([" ".join(words) for words in pages], CONFIG)[1]
    runs = [[own_run(sample, other) for other in samples] for sample in samples]
    assert all(130 < runs[a][b] < 170 for a, b in ((0, 1), (1, 0), (0, 3), (2, 3), (2, 0)))
    assert max(runs[3] + runs[4][3:]) < 60 and [runs[i][i] for i in range(5)] == [0] * 5


def test_bands_and_rows_fit_the_permutations() -> None:
    bands, rows = CONFIG.bands_and_rows()
    assert bands * rows <= 128
    assert 1 - (1 - 0.8**rows) ** bands > 0.9  # how often a pair at the threshold is compared
    found = signatures(["one two three", "one two three", "four five six"], CONFIG)
    hashes = band_hashes(found[:, :rows])
    assert hashes.shape == (3,) and hashes.dtype == np.uint64
    assert hashes[0] == hashes[1] != hashes[2]
