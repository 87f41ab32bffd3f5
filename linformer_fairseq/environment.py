"""What this machine offers: installed versions, CPU, GPUs, apex and Slurm.

`python -m linformer_fairseq` prints this report. It must work where fairseq or torch is missing or broken, so
neither is imported here before it has been looked for.
"""

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.version import __version__

FAIRSEQ = "ve-fairseq==0.12.3"
"""The distribution that provides the module `fairseq`: its main branch, repaired for Python 3.11 and 3.12."""

REQUIRED = ("torch", "numpy", "sentencepiece", "pyarrow")

BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""bfloat16 instruction sets as /proc/cpuinfo names them; the last one is Arm's."""

APEX_MODULES = ("apex.optimizers", "apex.normalization", "amp_C", "fused_layer_norm_cuda")
"""What FusedAdam and FusedLayerNorm import; a Python-only build lacks the last two, its CUDA extensions."""


@dataclass(frozen=True)
class Status:
    """One finding: what is there, and the remedy (empty if nothing is wrong)."""

    found: str
    remedy: str = ""


@dataclass(frozen=True)
class ApexStatus:
    """Which `apex` is importable.

    Attributes:
        state: `ready` means that FusedAdam and FusedLayerNorm work; `unusable` is NVIDIA's apex without its
            CUDA extensions or built for another torch; `other-project` is any other module of that name.
        sentence: the finding in words, with the remedy where something is wrong.
    """

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


@dataclass(frozen=True)
class Report:
    """All that `python -m linformer_fairseq` prints; each of `problems` is a sentence with its remedy."""

    version: str
    user_dir: str
    python: str
    packages: dict[str, str | None]
    fairseq: str
    cpu_cores: int
    cpu_bf16: list[str]
    cuda: str
    gpus: list[Gpu]
    apex: ApexStatus
    slurm: str
    problems: list[str]

    def to_json(self) -> dict[str, Any]:
        """The report as plain dictionaries and lists."""
        return asdict(self)

    def __str__(self) -> str:
        bf16 = f"bf16 instructions: {', '.join(self.cpu_bf16)}" if self.cpu_bf16 else "no bf16 instructions"
        rows = [
            ("user dir", self.user_dir),
            ("Python", self.python),
            *((name, found or "missing") for name, found in self.packages.items()),
            ("fairseq", self.fairseq),
            ("CPU", f"{_plural(self.cpu_cores, 'core')}, {bf16}"),
            ("CUDA", self.cuda),
            *(("", str(gpu)) for gpu in self.gpus),
            ("apex", self.apex.sentence),
            ("Slurm", self.slurm),
        ]
        lines = [f"linformer_fairseq {self.version}", *(f"  {name:<14} {found}" for name, found in rows)]
        lines += ["To repair:", *(f"  - {problem}" for problem in self.problems)] if self.problems else []
        return "\n".join(lines)


def environment_report() -> Report:
    """Look at this machine; imports torch, fairseq and apex where they are, and survives their failure."""
    packages = {name: _version(name) for name in REQUIRED}
    missing = [name for name, found in packages.items() if found is None]
    torch, torch_failure = _try_import("torch")
    fairseq = fairseq_status()
    cuda, gpus = _cuda(torch)
    apex = apex_status()
    problems = [
        f"{', '.join(missing)} missing: pip install -c constraints.txt -e ." if missing else "",
        torch_failure if "torch" not in missing else "",
        fairseq.remedy,
        cuda.remedy,
        apex.sentence if apex.state in ("other-project", "unusable") else "",
    ]
    return Report(
        version=__version__,
        user_dir=str(USER_DIR),
        python=f"{platform.python_version()} ({sys.executable})",
        packages=packages,
        fairseq=fairseq.found,
        cpu_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_bf16=_cpu_bf16(),
        cuda=cuda.found,
        gpus=gpus,
        apex=apex,
        slurm=_slurm(),
        problems=[problem for problem in problems if problem],
    )


def fairseq_status() -> Status:
    """Which distribution provides `fairseq`, and what to do where it is absent, doubled, wrong or broken."""
    name, tested = FAIRSEQ.split("==")
    ours, upstream = _version(name), _version("fairseq")
    install = f'pip install "{FAIRSEQ}"'
    spec = importlib.util.find_spec("fairseq")
    if spec is None:
        return Status("missing", f"fairseq is missing: {install}")
    if ours and upstream:
        return Status(
            f"{name} {ours} and fairseq {upstream}",
            "Two distributions provide fairseq and overwrite each other's files: "
            f"pip uninstall -y fairseq {name} && {install}",
        )
    if upstream:
        return Status(
            f"the distribution fairseq {upstream}",
            f"fairseq {upstream} does not run on Python 3.11 and later, {FAIRSEQ} does: "
            f"pip uninstall -y fairseq && {install}",
        )
    origin = _location(spec)
    if ours is None or not origin.samefile(str(distribution(name).locate_file("fairseq"))):
        return Status(
            str(origin),
            f"fairseq comes from {origin}, not from {FAIRSEQ}: take that folder off PYTHONPATH, and {install}",
        )
    if ours != tested:
        return Status(f"{name} {ours}", f"{name} {ours} is not the tested release: {install}")
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)  # it asks for what only speech needs
    return Status(f"{name} {ours}", _try_import("fairseq")[1])


@functools.cache
def apex_status() -> ApexStatus:
    """Tell NVIDIA's apex (FusedAdam, FusedLayerNorm) from PyPI's unrelated project of the same name."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return ApexStatus("absent", "absent (optional: only the fused CUDA optimizer and layer norm need it)")
    folder = _location(spec)
    if not all((folder / part).is_dir() for part in ("optimizers", "normalization")):
        return ApexStatus(
            "other-project",
            f"The installed apex ({folder}) is not NVIDIA's but another project of that name, such as "
            "PyPI's toolkit for Pyramid: pip uninstall apex, and build NVIDIA's from source for its kernels.",
        )
    for name in APEX_MODULES:
        _, failure = _try_import(name)
        if failure:
            return ApexStatus(
                "unusable",
                f"NVIDIA's apex is here but unusable ({failure}): rebuild it with its CUDA extensions "
                "against the installed torch, or pip uninstall apex, which is optional.",
            )
    return ApexStatus("ready", f"NVIDIA's, with FusedAdam and FusedLayerNorm ({folder})")


def _cuda(torch: ModuleType | None) -> tuple[Status, list[Gpu]]:
    """The state of CUDA, and its devices."""
    if torch is None:
        return Status("unknown without torch"), []
    driver = shutil.which("nvidia-smi") is not None
    if torch.version.cuda is None:
        remedy = "An NVIDIA driver is here, but torch is a CPU build: install the CUDA build of torch."
        return Status("none (torch is a CPU build)", remedy if driver else ""), []
    if not torch.cuda.is_available():
        remedy = f"torch finds no GPU: the NVIDIA driver may be too old for CUDA {torch.version.cuda}."
        return Status(f"{torch.version.cuda} in torch, but no usable GPU", remedy if driver else ""), []
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    gpus = [
        Gpu(
            name=device.name,
            capability=f"{device.major}.{device.minor}",
            memory_gib=round(device.total_memory / 2**30, 1),
            bf16=device.major >= 8,  # Ampere (8.0) computes in bfloat16; on older ones torch only emulates it
        )
        for device in devices
    ]
    return Status(f"{torch.version.cuda}, {_plural(len(gpus), 'GPU')}"), gpus


def _cpu_bf16() -> list[str]:
    """The bfloat16 instruction sets that Linux reports for the CPU (empty elsewhere)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [flag for flag in BF16_FLAGS if flag in flags]


def _slurm() -> str:
    """Version of the Slurm commands, and whether this process runs in a job."""
    job = os.environ.get("SLURM_JOB_ID")
    here = f"inside job {job}" if job else "outside a job"
    paths = {name: shutil.which(name) for name in ("sbatch", "scontrol")}
    command = paths["scontrol"] or paths["sbatch"]
    if command is None:
        return f"no sbatch or scontrol on PATH, {here}"
    try:
        ran = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=20)
        said = (ran.stdout + ran.stderr).strip().splitlines() or [f"exit status {ran.returncode}"]
        version = said[-1] if ran.returncode == 0 else f"{command} fails ({said[-1]})"
    except (OSError, subprocess.TimeoutExpired) as error:
        version = f"{command} does not answer ({error})"
    return ", ".join([version, here, *(f"no {name} on PATH" for name, path in paths.items() if path is None)])


def _version(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def _location(spec: ModuleSpec) -> Path:
    """The folder of a package, or the file of a module."""
    return Path(next(iter(spec.submodule_search_locations or [spec.origin or ""])))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _try_import(name: str) -> tuple[ModuleType | None, str]:
    """Import a module: it and "", or None and the failure in one sentence.

    Any exception counts: a broken extension raises OSError, a package for Python 2 raises SyntaxError.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name), ""
    except Exception as error:
        reason = str(error).partition("\n")[0]
        return None, f"{name} cannot be imported: {type(error).__name__}: {reason}"
