"""Peaks, memory and energy."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from linformer_fairseq.compat.precision import Precision
from linformer_fairseq.training import hardware


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("Tesla V100-SXM2-32GB", "fp16", 125),
        ("Tesla V100-SXM2-32GB", "fp32", 15.7),
        ("Tesla V100-SXM2-32GB", "bf16", None),
        ("Tesla V100-PCIE-16GB", "fp16", 112),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA L40S", "fp16", 362),
        ("NVIDIA L40", "fp16", 181),
        ("NVIDIA L4", "fp16", 121),
        ("NVIDIA H200 NVL", "bf16", 835.5),
        ("Tesla V100-SXM3-32GB", "fp16", 125),
        ("NVIDIA GH200 480GB", "bf16", 989.4),
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H100 NVL", "fp16", 835.5),
        ("NVIDIA A30", "bf16", 165),
        ("NVIDIA A40", "fp32", 37.4),
        ("NVIDIA A10", "fp16", 125),
        ("NVIDIA A10G", "fp16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "fp16", 312 / 7),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "bf16", 989.4 * 3 / 7),
        ("NVIDIA A30 MIG 2g.12gb", "fp16", 165 / 2),
        ("NVIDIA T400", "fp16", None),
        ("Tesla T4", "fp16", 65),
        ("Some other GPU", "fp16", None),
    ],
)
def test_peak_of_a_gpu_is_found_by_its_name(name: str, precision: Precision, tflops: float | None) -> None:
    peak = hardware.peak_of_gpu(name, precision)
    assert peak == (None if tflops is None else pytest.approx(tflops * 1e12))


@pytest.mark.parametrize(("capability", "dtype"), [((7, 0), torch.float16), ((8, 0), torch.bfloat16)])
def test_the_16_bit_type_of_a_gpu(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert hardware.low_precision(torch.device("cuda")) == dtype
    assert hardware.low_precision(torch.device("cpu")) == torch.bfloat16


def test_tf32_counts_only_where_it_is_allowed() -> None:
    assert hardware.peak_of_gpu("NVIDIA A100-SXM4-40GB", "fp32") == 19.5e12
    assert hardware.peak_of_gpu("NVIDIA A100-SXM4-40GB", "fp32", allow_tf32=True) == 156e12
    assert hardware.peak_of_gpu("Tesla T4", "fp32", allow_tf32=True) == pytest.approx(8.1e12)


def test_peak_of_a_cpu_is_measured_and_leaves_the_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    peak = hardware.peak_flops(torch.device("cpu"), "fp32")
    assert torch.equal(torch.get_rng_state(), state)
    assert peak is None or peak > 0


def test_a_slow_cpu_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_seconds", lambda matrix: 1.0)
    assert hardware.measured_peak("bf16") is None


def test_peak_memory_grows_with_what_is_held() -> None:
    before = hardware.peak_memory()
    held = torch.ones(64 * 2**20, dtype=torch.uint8)  # bytes, written to, so resident
    assert hardware.peak_memory() >= before > held.numel() / 2  # this process has imported PyTorch


def test_energy_is_counted_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is found by UUID, and NVML's millijoules since the driver was loaded become joules since the start."""
    counter = iter([5_000_000, 5_007_500])
    asked: list[str] = []
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(counter),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234-abcd"))
    meter = hardware.energy_meter(torch.device("cuda:1"))
    assert meter is not None and meter() == 7.5
    assert asked == ["GPU-1234-abcd"]


def test_no_energy_without_gpu_or_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.energy_meter(torch.device("cpu")) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it fails
    assert hardware.energy_meter(torch.device("cuda:0")) is None
