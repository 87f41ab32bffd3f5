"""Files of whole arrays beside those of fairseq's builder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype

from data_prep.indexed import part_files, smallest_dtype, write_joined


@pytest.mark.parametrize("symbols", [32_000, 65_499, 65_500, 250_002])
def test_type_is_the_one_that_fairseq_chooses(symbols: int) -> None:
    assert smallest_dtype(symbols) is best_fitting_int_dtype(symbols)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_bytes_are_those_of_fairseqs_builder(tmp_path: Path, dtype: type) -> None:
    random = np.random.default_rng(0)
    builder = MMapIndexedDatasetBuilder(tmp_path / "expected.bin", dtype)
    parts = [tmp_path / str(number) for number in range(3)]
    for part, count in zip(parts, (317, 0, 78), strict=True):
        sizes = random.integers(1, 50, count)
        tokens = random.integers(0, 60_000, sizes.sum())
        for item in np.split(tokens, np.cumsum(sizes)[:-1]) if count else []:
            builder.add_item(torch.from_numpy(item))
        for array, path in zip((tokens.astype(dtype), sizes.astype(np.int32)), part_files(part), strict=True):
            array.tofile(path)
    builder.finalize(tmp_path / "expected.idx")
    write_joined(tmp_path / "found", parts, dtype)
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"found.{suffix}").read_bytes() == (tmp_path / f"expected.{suffix}").read_bytes()
