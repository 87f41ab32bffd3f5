"""What the hardware could do and what it has used: peak FLOP/s, memory, energy."""

import ctypes
import importlib
import platform
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from linformer_fairseq.compat.precision import Precision

PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "v100-sxm[23]": {"fp32": 15.7, "fp16": 125},
    "v100-pcie": {"fp32": 14, "fp16": 112},
    "v100s": {"fp32": 16.4, "fp16": 130},
    "t4": {"fp32": 8.1, "fp16": 65},
    "a100": {"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312},
    "a30": {"fp32": 10.3, "tf32": 82, "fp16": 165, "bf16": 165},
    "a40": {"fp32": 37.4, "tf32": 74.8, "fp16": 149.7, "bf16": 149.7},
    "a10": {"fp32": 31.2, "tf32": 62.5, "fp16": 125, "bf16": 125},
    "h100 pcie": {"fp32": 51, "tf32": 378, "fp16": 756, "bf16": 756},
    "h[12]00 nvl": {"fp32": 60, "tf32": 417.5, "fp16": 835.5, "bf16": 835.5},
    "h100 80gb hbm3|h200|gh200": {"fp32": 67, "tf32": 494.7, "fp16": 989.4, "bf16": 989.4},
    "l40s": {"fp32": 91.6, "tf32": 183, "fp16": 362, "bf16": 362},
    "l40": {"fp32": 90.5, "tf32": 90.5, "fp16": 181, "bf16": 181},
    "l4": {"fp32": 30.3, "tf32": 60, "fp16": 121, "bf16": 121},
}
"""10^12 FLOP/s of matrix products without sparsity, from NVIDIA's data sheets, by a pattern in the device's name.

fp16 and bf16 are those of the tensor cores. The first entry that matches counts. A precision is missing where the
device does not compute it in hardware, or we have no figure.
"""

_LARGE, _SMALL = 1024, 256  # sides of the matrices that are multiplied to measure a CPU
_LONGEST = 0.25  # seconds for one product of the large ones


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """FLOP/s that one device, or this process on its CPUs, could do at best; None where that is not known."""
    if device.type == "cuda":
        return peak_of_gpu(torch.cuda.get_device_name(device), precision, torch.backends.cuda.matmul.allow_tf32)
    return measured_peak(precision) if device.type == "cpu" else None


def peak_of_gpu(name: str, precision: Precision, allow_tf32: bool = False) -> float | None:
    """As `peak_flops`, for the GPU that CUDA calls `name`; PyTorch may compute fp32 in tf32 with `allow_tf32`.

    A MIG slice, such as "NVIDIA A100-SXM4-40GB MIG 2g.10gb", has its share of the whole.
    """
    known = next((peaks for words, peaks in PEAK_TFLOPS.items() if re.search(rf"\b({words})\b", name.lower())), {})
    tflops = known.get(precision)
    if precision == "fp32" and allow_tf32:
        tflops = known.get("tf32", tflops)
    if tflops and (instance := re.search(r" MIG (\d)[gc]\.", name)):
        tflops *= int(instance[1]) / (4 if "A30" in name else 7)
    return None if tflops is None else tflops * 1e12


def low_precision(device: torch.device) -> torch.dtype:
    """The 16-bit type that a device computes in hardware: float16 on GPUs before Ampere (8.0), else bfloat16."""
    old = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8
    return torch.float16 if old else torch.bfloat16


def measured_peak(precision: Precision) -> float | None:
    """FLOP/s of this process in a product of square matrices: the best of three, without drawing random numbers.

    None where that would take over a second, as in bfloat16 on a CPU without instructions for it.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    small, large = (torch.ones(side, side, dtype=dtype) for side in (_SMALL, _LARGE))
    _seconds(small)  # the first product also sets up threads
    if _seconds(small) * (_LARGE / _SMALL) ** 3 > _LONGEST:
        return None
    seconds = min(_seconds(large) for _ in range(3))
    return 2.0 * _LARGE**3 / seconds


def _seconds(matrix: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(matrix, matrix)
    return time.perf_counter() - start


def peak_memory() -> int:
    """The most bytes that this process has occupied in main memory (resident set)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep_freed_memory() -> None:
    """Have malloc keep freed memory for the next tensor, where glibc is the C library. PyTorch does so on a GPU.

    glibc gives every block above 32 MiB back to the kernel, which clears its pages when they are asked for again: for
    the activations and gradients of each layer in each update, a tenth of the time of an update. A run asks for the
    same sizes again and again, so nothing is lost by keeping them.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX of its malloc.h
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def energy_meter(device: torch.device) -> Callable[[], float] | None:
    """A function that returns the joules that a GPU has drawn since this call.

    None without a GPU, without the package `nvidia-ml-py`, or where the GPU has no such counter, as before Volta.
    """
    if device.type != "cuda":
        return None
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        # By UUID: NVML numbers all GPUs of the machine, CUDA the visible ones.
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        start = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # mJ since the driver was loaded
    except Exception:  # pynvml has its own class of errors for every reason that NVML knows
        return None
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) - start) / 1000
