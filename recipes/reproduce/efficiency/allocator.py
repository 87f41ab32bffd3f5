"""glibc's malloc as each contestant finds it: this project's trainings on a CPU keep what is freed, others do not.

What malloc does with freed memory is a tenth of the time of a layer on a CPU (`linformer_fairseq/training/memory.py`),
and more for a layer that asks for more. Where there is no glibc, all contestants have what there is.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # glibc's names for mallopt
MMAPS = 65536  # its default for MMAP_MAX


def keep_freed() -> None:
    """As in this project's trainings."""
    _set({MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1})


def as_usual() -> None:
    """As glibc has it in a process that computes on large tensors: its thresholds have grown to their limits then."""
    _set({MMAP_MAX: MMAPS, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26})
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def give_back_at_once() -> None:
    """So that the resident set is what lives."""
    _set({MMAP_MAX: MMAPS, MMAP_THRESHOLD: 2**16, TRIM_THRESHOLD: 0})


def _set(options: dict[int, int]) -> None:
    library = _glibc()
    if library is not None:
        for name, value in options.items():
            library.mallopt(name, value)


def _glibc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
