"""What this machine offers: installed versions, CPU, GPUs, apex and Slurm; the report of `linformer env`.

It must work where fairseq or torch is missing or broken, so neither is imported before it has been looked for.
"""

import contextlib
import importlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Literal

from linformer_fairseq.paths import CLONE, USER_DIR
from linformer_fairseq.version import __version__

FAIRSEQ = "ve-fairseq==0.12.3"
"""The distribution that provides the module `fairseq`: its main branch, repaired for Python 3.11 and 3.12."""

REQUIRED = ("torch", "numpy", "sentencepiece", "pyarrow")
CUDA_126 = "https://download.pytorch.org/whl/cu126"
"""Builds of torch with code for Volta (capability 7.0) and older: up to 2.14, by PyTorch's plan for 2.15."""
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # in /proc/cpuinfo; the last one is Arm's
# What FusedAdam and FusedLayerNorm import; a Python-only build lacks the last two, its CUDA extensions.
APEX_MODULES = ("apex.optimizers", "apex.normalization", "amp_C", "fused_layer_norm_cuda")


@dataclass(frozen=True)
class ApexStatus:
    """Which `apex` is importable: `unusable` lacks its CUDA extensions, `other-project` is not NVIDIA's."""

    state: Literal["absent", "other-project", "unusable", "ready"]
    sentence: str


@dataclass(frozen=True)
class Gpu:
    """One CUDA device; `bf16` is true where the hardware computes in bfloat16."""

    name: str
    capability: str
    memory_gib: float
    bf16: bool

    def __str__(self) -> str:
        bf16 = "bf16" if self.bf16 else "no bf16: use --fp16"
        return f"{self.name}, {self.memory_gib} GiB, capability {self.capability}, {bf16}"


def cpu_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_bf16() -> list[str]:
    """The bfloat16 instruction sets that Linux reports for the CPU (empty elsewhere)."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split()) if cpuinfo.exists() else set()
    return [flag for flag in BF16_FLAGS if flag in words]


def _slurm() -> str:
    """Version of the Slurm commands, and whether this process runs in a job."""
    job = os.environ.get("SLURM_JOB_ID")
    here = f"inside job {job}" if job else "outside a job"
    absent = [name for name in ("sbatch", "scontrol") if shutil.which(name) is None]
    if len(absent) == 2:
        return f"no sbatch or scontrol on PATH, {here}"
    command = "sbatch" if "scontrol" in absent else "scontrol"
    try:
        ran = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=20)
        *_, last = [f"exit status {ran.returncode}", *(ran.stdout + ran.stderr).strip().splitlines()]
        version = last if ran.returncode == 0 else f"{command} fails ({last})"
    except (OSError, subprocess.TimeoutExpired) as error:
        version = f"{command} does not answer ({error})"
    return ", ".join([version, here, *(f"no {name} on PATH" for name in absent)])


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that `linformer env` prints; each of `problems` is a sentence with its remedy."""

    version: str = __version__
    user_dir: str = str(USER_DIR)
    python: str = f"{platform.python_version()} ({sys.executable})"
    packages: dict[str, str | None]
    fairseq: str
    cpu_cores: int = field(default_factory=cpu_cores)
    cpu_bf16: list[str] = field(default_factory=_cpu_bf16)
    cuda: str
    gpus: list[Gpu]
    apex: ApexStatus
    slurm: str = field(default_factory=_slurm)
    problems: list[str]

    def __str__(self) -> str:
        bf16 = f"bf16 instructions: {', '.join(self.cpu_bf16)}" if self.cpu_bf16 else "no bf16 instructions"
        cores = f"{self.cpu_cores} core{'s' * (self.cpu_cores != 1)}"
        rows = {"user dir": self.user_dir, "Python": self.python}
        rows |= {name: found or "missing" for name, found in self.packages.items()}
        rows |= {"fairseq": self.fairseq, "CPU": f"{cores}, {bf16}", "CUDA": self.cuda}
        rows |= {f"GPU {number}": str(gpu) for number, gpu in enumerate(self.gpus)}
        rows |= {"apex": self.apex.sentence, "Slurm": self.slurm}
        lines = [f"linformer_fairseq {self.version}", *(f"  {name:<14} {found}" for name, found in rows.items())]
        lines += ["To repair:", *(f"  - {problem}" for problem in self.problems)] if self.problems else []
        return "\n".join(lines)


def environment_report() -> Report:
    """Look at this machine; imports torch, fairseq and apex where they exist, and survives their failure."""
    packages = {name: _version(name) for name in REQUIRED}
    missing = [name for name, found in packages.items() if found is None]
    install = "pip install -c constraints.txt -e ." if CLONE else f"pip install {' '.join(missing)}"
    torch, torch_failure = _try_import("torch")
    fairseq, fairseq_problem = _fairseq()
    cuda, gpus, cuda_problem = _cuda(torch)
    apex = _apex()
    problems = [
        f"{', '.join(missing)} missing: {install}" if missing else "",
        torch_failure if "torch" not in missing else "",
        fairseq_problem,
        cuda_problem,
        _torchaudio() if torch else "",
        apex.sentence if apex.state in ("other-project", "unusable") else "",
    ]
    found = [problem for problem in problems if problem]
    return Report(packages=packages, fairseq=fairseq, cuda=cuda, gpus=gpus, apex=apex, problems=found)


def _fairseq() -> tuple[str, str]:
    """Which distribution provides `fairseq`; what to do where it is missing, doubled, wrong or broken, or ""."""
    name, tested = FAIRSEQ.split("==")
    ours, upstream = _version(name), _version("fairseq")
    install = f'pip install "{FAIRSEQ}"'
    spec = importlib.util.find_spec("fairseq")
    if spec is None:
        return "missing", f"fairseq is missing: {install}"
    if ours and upstream:
        problem = f"Two distributions provide fairseq and overwrite each other's files: pip uninstall -y fairseq {name}"
        return f"{name} {ours} and fairseq {upstream}", f"{problem} && {install}"
    if upstream:
        problem = f"fairseq {upstream} does not run on Python 3.11 and later, {FAIRSEQ} does: pip uninstall -y fairseq"
        return f"the distribution fairseq {upstream}", f"{problem} && {install}"
    origin = _location(spec)
    if ours is None or not origin.samefile(str(distribution(name).locate_file("fairseq"))):
        problem = f"fairseq comes from {origin}, not from {FAIRSEQ}: take that folder off PYTHONPATH, and {install}"
        return str(origin), problem
    if ours != tested:
        return f"{name} {ours}", f"{name} {ours} is not the tested release: {install}"
    return f"{name} {ours}", _try_import("fairseq")[1]


def _torchaudio() -> str:
    """What to do about a torchaudio that cannot be loaded, or ""; fairseq brings the one of CUDA."""
    if importlib.util.find_spec("torchaudio") is None or not (failure := _try_import("torchaudio")[1]):
        return ""
    return (
        f"{failure}: it is of another build than torch, and transformers' Trainer and pipelines fail with it: "
        "pip uninstall -y torchaudio (only fairseq's speech tasks need it)"
    )


def _apex() -> ApexStatus:
    """Tell NVIDIA's apex (FusedAdam, FusedLayerNorm) from PyPI's unrelated project of the same name."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return ApexStatus("absent", "absent (optional: only the fused CUDA optimizer and layer norm need it)")
    folder = _location(spec)
    if not all((folder / part).is_dir() for part in ("optimizers", "normalization")):
        sentence = f"The installed apex ({folder}) is another project of that name, such as PyPI's toolkit for Pyramid"
        return ApexStatus("other-project", f"{sentence}: pip uninstall apex, and build NVIDIA's from source if needed.")
    if failure := next(filter(None, (_try_import(name)[1] for name in APEX_MODULES)), ""):
        sentence = f"NVIDIA's apex is installed but unusable ({failure}): rebuild it with its CUDA extensions"
        return ApexStatus("unusable", f"{sentence} against the installed torch, or pip uninstall apex; it is optional.")
    return ApexStatus("ready", f"NVIDIA's, with FusedAdam and FusedLayerNorm ({folder})")


def _cuda(torch: ModuleType | None) -> tuple[str, list[Gpu], str]:
    """The state of CUDA, its devices, and what to repair, or ""."""
    if torch is None:
        return "unknown without torch", [], ""
    driver = shutil.which("nvidia-smi") is not None
    if torch.version.cuda is None:
        problem = "An NVIDIA driver is installed, but torch is a CPU build: install the CUDA build of torch."
        return "none (torch is a CPU build)", [], problem if driver else ""
    if not torch.cuda.is_available():
        problem = f"torch finds no GPU: the NVIDIA driver may be too old for CUDA {torch.version.cuda}."
        return f"{torch.version.cuda} in torch, but no usable GPU", [], problem if driver else ""
    gpus = [
        # Ampere (8.0) computes in bfloat16; on older ones torch only emulates it
        Gpu(each.name, f"{each.major}.{each.minor}", round(each.total_memory / 2**30, 1), each.major >= 8)
        for each in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ]
    return f"{torch.version.cuda}, {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}", gpus, unserved_gpus(torch)


def unserved_gpus(torch: ModuleType) -> str:
    """A sentence with its remedy if this build of torch has no code for a GPU that it sees, or ""."""
    built_for = torch.cuda.get_arch_list()
    for each in map(torch.cuda.get_device_properties, range(torch.cuda.device_count())):
        if not any(_runs(code, each.major, each.minor) for code in built_for):
            remedy = f'pip install "torch=={torch.__version__.partition("+")[0]}" --index-url {CUDA_126}'
            if (each.major, each.minor) >= (7, 5):
                remedy = "install a build of torch for it"
            return (
                f"{each.name} has capability {each.major}.{each.minor}, and torch {torch.__version__} with CUDA "
                f"{torch.version.cuda} has code for {', '.join(built_for)} only: {remedy}"
                f"{' (in a clone: make venv CUDA=cu126)' if CLONE and 'pip' in remedy else ''}, "
                "or hide the GPU with CUDA_VISIBLE_DEVICES"
            )
    return ""


def _runs(code: str, major: int, minor: int) -> bool:
    """Whether a GPU of that capability runs this entry of `torch.cuda.get_arch_list()`.

    Machine code (sm_80) runs from its capability to the next major one, only on that one if a letter follows; PTX
    (compute_80) is compiled for any later one.
    """
    kind, version, letter = re.fullmatch(r"(\w+)_(\d+)(\w?)", code).groups()  # type: ignore[union-attr]
    capability = int(version)
    if kind == "compute":
        return capability <= 10 * major + minor
    return capability // 10 == major and (capability % 10 == minor if letter == "a" else capability % 10 <= minor)


def _version(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def _location(spec: ModuleSpec) -> Path:
    return Path(next(iter(spec.submodule_search_locations or [spec.origin or ""])))


def _try_import(name: str) -> tuple[ModuleType | None, str]:
    """Import a module: it and "", or None and the failure in one sentence."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name), ""
    except Exception as error:  # a broken extension raises OSError, a package for Python 2 raises SyntaxError
        reason = str(error).partition("\n")[0]
        return None, f"{name} cannot be imported: {type(error).__name__}: {reason}"
