"""fairseq's memory-mapped data format, ``.bin`` and ``.idx``, written in whole arrays.

fairseq's ``MMapIndexedDatasetBuilder`` takes one item at a time and keeps the index of all of them as Python numbers,
and importing it takes longer than encoding ten megabytes. These files are byte for byte the ones that it writes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.stage import replace_when_done

DTYPE_CODES: dict[type, int] = {np.uint16: 8, np.uint32: 9}
SIZE_BYTES = 4  # of an item's size, int32


@dataclass(frozen=True)
class Slice:
    """Consecutive items in a part: a file of tokens and one of item sizes (int32).

    Attributes:
        tokens, sizes: the two files.
        first_token, token_count, first_item, item_count: where the items lie in them.
    """

    tokens: Path
    sizes: Path
    first_token: int
    token_count: int
    first_item: int
    item_count: int


def smallest_dtype(symbols: int) -> type:
    """The integer type that fairseq chooses for a vocabulary."""
    return np.uint16 if symbols < 65500 else np.uint32


def write_joined(prefix: Path, slices: Sequence[Slice], dtype: type) -> None:
    """Writes ``prefix.bin`` and ``prefix.idx`` from slices in their order, holding one slice at a time.

    Args:
        prefix: of the two files.
        slices: of parts, none larger than memory.
        dtype: of the tokens.
    """
    width = np.dtype(dtype).itemsize
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, DTYPE_CODES[dtype], sum(s.item_count for s in slices))
    with (
        # The index gets its name last: fairseq takes it for a sign that the data are there.
        replace_when_done(prefix.with_name(f"{prefix.name}.idx")) as index_path,
        replace_when_done(prefix.with_name(f"{prefix.name}.bin")) as data_path,
        index_path.open("wb") as index,
        data_path.open("wb") as data,
    ):
        index.write(header)
        for part in slices:
            data.write(np.fromfile(part.tokens, dtype, part.token_count, offset=part.first_token * width).data)
            index.write(np.fromfile(part.sizes, np.int32, part.item_count, offset=part.first_item * SIZE_BYTES).data)
        address = 0
        for part in slices:
            sizes = np.fromfile(part.sizes, np.int32, part.item_count, offset=part.first_item * SIZE_BYTES)
            ends = np.cumsum(sizes, dtype=np.int64) * width + address
            index.write((ends - sizes.astype(np.int64) * width).data)
            address += part.token_count * width
