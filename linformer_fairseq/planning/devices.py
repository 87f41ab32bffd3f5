"""GPUs that a run may be planned for. Their peak speeds are in `training/hardware.py`."""

from typing import NamedTuple

from linformer_fairseq.errors import UsageError


class Device(NamedTuple):
    """One GPU: CUDA's name for it, its memory and the power that it may draw (NVIDIA's data sheets)."""

    cuda_name: str
    gigabytes: float
    watts: float

    @property
    def budget(self) -> float:
        """Bytes that a run may fill by the computation of `memory.py`."""
        return 0.95e9 * self.gigabytes


DEVICES = {
    "v100-16gb": Device("Tesla V100-SXM2-16GB", 16, 300),
    "v100-32gb": Device("Tesla V100-SXM2-32GB", 32, 300),
    "t4": Device("Tesla T4", 16, 70),
    "a10": Device("NVIDIA A10", 24, 150),
    "l4": Device("NVIDIA L4", 24, 72),
    "a100-40gb": Device("NVIDIA A100-SXM4-40GB", 40, 400),
    "a100-80gb": Device("NVIDIA A100-SXM4-80GB", 80, 400),
    "l40s": Device("NVIDIA L40S", 48, 350),
    "h100": Device("NVIDIA H100 80GB HBM3", 80, 700),
    "h200": Device("NVIDIA H200", 141, 700),
}


def find_device(name: str) -> Device:
    """The device of that name, or a UsageError that names all."""
    if name.lower() not in DEVICES:
        raise UsageError(f"--device {name}: choose one of {', '.join(DEVICES)}")
    return DEVICES[name.lower()]
