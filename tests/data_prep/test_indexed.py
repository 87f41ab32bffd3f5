"""Files of whole arrays beside those of fairseq's builder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype

from data_prep.indexed import Slice, smallest_dtype, write_joined


@pytest.mark.parametrize("symbols", [32_000, 65_499, 65_500, 250_002])
def test_type_is_the_one_that_fairseq_chooses(symbols: int) -> None:
    assert smallest_dtype(symbols) is best_fitting_int_dtype(symbols)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_bytes_are_those_of_fairseqs_builder(tmp_path: Path, dtype: type) -> None:
    random = np.random.default_rng(0)
    builder = MMapIndexedDatasetBuilder(tmp_path / "expected.bin", dtype)
    slices: list[Slice] = []
    for number, counts in enumerate([[300, 0, 17], [0], [1, 77]]):  # items of each slice of each part
        sizes = random.integers(1, 50, sum(counts))
        tokens = random.integers(0, 60_000, sizes.sum())
        for item in np.split(tokens, np.cumsum(sizes)[:-1]) if len(sizes) else []:
            builder.add_item(torch.from_numpy(item))
        files = (tmp_path / f"{number}.tokens", tmp_path / f"{number}.sizes")
        tokens.astype(dtype).tofile(files[0])
        sizes.astype(np.int32).tofile(files[1])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        first = 0
        for count in counts:
            begin, end = int(starts[first]), int(starts[first + count])
            slices.append(Slice(*files, begin, end - begin, first, count))
            first += count
    builder.finalize(tmp_path / "expected.idx")
    write_joined(tmp_path / "found", slices, dtype)
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"found.{suffix}").read_bytes() == (tmp_path / f"expected.{suffix}").read_bytes()
