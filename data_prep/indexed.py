"""fairseq's memory-mapped data format, ``.bin`` and ``.idx``, written in whole arrays.

fairseq's ``MMapIndexedDatasetBuilder`` takes one item at a time and keeps the index of all of them as Python numbers,
and importing it takes longer than encoding ten megabytes. These files are byte for byte the ones that it writes.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linformer_fairseq.io.files import replace_when_done

DTYPE_CODES: dict[type, int] = {np.uint16: 8, np.uint32: 9}


def part_files(prefix: Path) -> tuple[Path, Path]:
    """The files of a part: its tokens, in the data's type, and the sizes of its items, in int32."""
    return prefix.with_name(f"{prefix.name}.tokens"), prefix.with_name(f"{prefix.name}.sizes")


def smallest_dtype(symbols: int) -> type:
    """The integer type that fairseq chooses for a vocabulary."""
    return np.uint16 if symbols < 65500 else np.uint32


def write_joined(prefix: Path, parts: Sequence[Path], dtype: type) -> None:
    """Writes ``prefix.bin`` and ``prefix.idx`` from parts in their order, holding the sizes of one at a time.

    Args:
        prefix: of the two files.
        parts: prefixes of their files.
        dtype: of the tokens.
    """
    width = np.dtype(dtype).itemsize
    files = [part_files(part) for part in parts]
    items = sum(sizes.stat().st_size for _, sizes in files) // np.dtype(np.int32).itemsize
    with (
        # The index gets its name last: fairseq takes it for a sign that the data are there.
        replace_when_done(prefix.with_name(f"{prefix.name}.idx")) as index_path,
        replace_when_done(prefix.with_name(f"{prefix.name}.bin")) as data_path,
        index_path.open("wb") as index,
        data_path.open("wb") as data,
    ):
        index.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, DTYPE_CODES[dtype], items))
        for tokens, sizes in files:
            for source, target in ((tokens, data), (sizes, index)):
                with source.open("rb") as file:
                    shutil.copyfileobj(file, target, 1 << 22)
        address = 0
        for _, sizes in files:
            widths = np.fromfile(sizes, np.int32).astype(np.int64) * width
            ends = np.cumsum(widths) + address
            index.write((ends - widths).data)
            address += int(widths.sum())
