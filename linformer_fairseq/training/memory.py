"""Memory of a training run on a CPU: what is freed is kept for the next tensor."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have malloc keep freed memory, where glibc is the C library. On a GPU, PyTorch does the same itself.

    glibc gives every block above 32 MiB back to the kernel, which clears its pages when they are asked for again: for
    the activations and gradients of each layer in each update, a tenth of the time of an update. A run asks for the
    same sizes again and again, so nothing is lost by keeping them.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
