"""Memory of a training on a CPU: what is freed is kept for the next tensor."""

from __future__ import annotations

import ctypes
import platform
from functools import wraps
from typing import Any

from fairseq.trainer import Trainer

from linformer_fairseq.compat.precision import on_cpu

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory_of_trainings() -> None:
    """Call `keep_freed_memory` in trainings on a CPU; on a GPU, PyTorch keeps its memory itself."""
    fairseq_init = Trainer.__init__

    @wraps(fairseq_init)
    def init(self: Trainer, cfg: Any, *others: Any, **named: Any) -> None:
        if on_cpu(cfg):
            keep_freed_memory()
        fairseq_init(self, cfg, *others, **named)

    Trainer.__init__ = init


def keep_freed_memory() -> None:
    """Have malloc keep freed memory, where glibc is the C library.

    glibc gives every block above 32 MiB back to the kernel, which clears its pages when they are asked for again: for
    the activations and gradients of each layer in each update, a tenth of the time of an update. A training asks for
    the same sizes again and again, so nothing is lost by keeping them.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
