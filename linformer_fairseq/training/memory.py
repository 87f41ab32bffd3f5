"""Memory of a training on a CPU: what is freed is kept for the next tensor."""

from __future__ import annotations

import ctypes
import platform

import torch

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Have malloc keep freed memory, where this process computes on a CPU and glibc is its C library.

    glibc gives every block above 32 MiB back to the kernel, which clears its pages when they are asked for again: for
    the activations and gradients of each layer in each update, a tenth of the time of an update. A training asks for
    the same sizes again and again, so nothing is lost by keeping them. On a GPU PyTorch does so itself.
    """
    if torch.cuda.is_available() or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
