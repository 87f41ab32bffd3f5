"""glibc's malloc as each contestant finds it: this project's trainings on a CPU keep what is freed, others do not.

What malloc does with freed memory is a tenth of the time of a layer on a CPU (`linformer_fairseq/training/memory.py`),
and more for a layer that asks for more. Where there is no glibc, all contestants have what there is.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Any

from linformer_fairseq.training.memory import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h, as the two others
MMAPS = 65536  # its default for M_MMAP_MAX


def keep_freed() -> None:
    """As in this project's trainings."""
    keep_freed_memory()


def as_usual() -> None:
    """As glibc has it in a process that computes on large tensors: its thresholds have grown to their limits then."""
    _set({M_MMAP_MAX: MMAPS, M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26})
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def give_back_at_once() -> None:
    """So that the resident set is what lives."""
    _set({M_MMAP_MAX: MMAPS, M_MMAP_THRESHOLD: 2**16, M_TRIM_THRESHOLD: 0})


def _set(options: dict[int, int]) -> None:
    library = _glibc()
    if library is not None:
        for name, value in options.items():
            library.mallopt(name, value)


def _glibc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
