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
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

from linformer_fairseq.paths import CLONE, USER_DIR
from linformer_fairseq.version import __version__

FAIRSEQ = "ve-fairseq==0.12.3"
"""The distribution that provides the module `fairseq`: its main branch, repaired for Python 3.11 and 3.12."""

REQUIRED = ("torch", "numpy", "sentencepiece", "pyarrow")
CUDA_126 = "https://download.pytorch.org/whl/cu126"
"""Builds of torch with code for Volta (capability 7.0) and older: up to 2.14, by PyTorch's plan for 2.15."""
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # in /proc/cpuinfo; the last one is Arm's


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
        version = f"{command} fails ({last})" if ran.returncode else last
    except (OSError, subprocess.TimeoutExpired) as error:
        version = f"{command} does not answer ({error})"
    return ", ".join([version, here, *(f"no {name} on PATH" for name in absent)])


def environment_report() -> dict[str, Any]:
    """Look at this machine; imports torch, fairseq and apex where they exist, and survives their failure.

    What is found is in JSON's types. Each of `problems` is a sentence with its remedy.
    """
    packages = {name: _version(name) for name in REQUIRED}
    missing = [name for name, found in packages.items() if found is None]
    install = "pip install -c constraints.txt -e ." if CLONE else f"pip install {' '.join(missing)}"
    torch, torch_failure = _try_import("torch")
    fairseq, fairseq_problem = _fairseq()
    cuda, gpus, cuda_problem = _cuda(torch)
    apex, apex_sentence = _apex()
    problems = [
        f"{', '.join(missing)} missing: {install}" if missing else "",
        torch_failure if "torch" not in missing else "",
        fairseq_problem,
        cuda_problem,
        _torchaudio() if torch else "",
        apex_sentence if apex in ("other-project", "unusable") else "",
    ]
    return {
        "version": __version__,
        "user_dir": str(USER_DIR),
        "python": f"{platform.python_version()} ({sys.executable})",
        "packages": packages,
        "fairseq": fairseq,
        "cpu_cores": cpu_cores(),
        "cpu_bf16": _cpu_bf16(),
        "cuda": cuda,
        "gpus": gpus,
        "apex": {"state": apex, "sentence": apex_sentence},
        "slurm": _slurm(),
        "problems": [problem for problem in problems if problem],
    }


def in_words(report: Mapping[str, Any]) -> str:
    """The report for the terminal."""
    bf16 = f"bf16 instructions: {', '.join(report['cpu_bf16'])}" if report["cpu_bf16"] else "no bf16 instructions"
    cores = f"{report['cpu_cores']} core{'s' * (report['cpu_cores'] != 1)}"
    rows = {"user dir": report["user_dir"], "Python": report["python"]}
    rows |= {name: found or "missing" for name, found in report["packages"].items()}
    rows |= {"fairseq": report["fairseq"], "CPU": f"{cores}, {bf16}", "CUDA": report["cuda"]}
    for number, gpu in enumerate(report["gpus"]):
        types = "bf16" if gpu["bf16"] else "no bf16: use --fp16"
        rows[f"GPU {number}"] = f"{gpu['name']}, {gpu['memory_gib']} GiB, capability {gpu['capability']}, {types}"
    rows |= {"apex": report["apex"]["sentence"], "Slurm": report["slurm"]}
    lines = [f"linformer_fairseq {report['version']}", *(f"  {name:<14} {found}" for name, found in rows.items())]
    lines += ["To repair:", *(f"  - {problem}" for problem in report["problems"])] if report["problems"] else []
    return "\n".join(lines)


def _fairseq() -> tuple[str, str]:
    """Which distribution provides `fairseq`; what to do where it is missing, doubled, wrong or broken, or ""."""
    name, tested = FAIRSEQ.split("==")
    ours, upstream, spec = _version(name), _version("fairseq"), importlib.util.find_spec("fairseq")
    install = f'pip install "{FAIRSEQ}"'
    if spec is None:
        return "missing", f"fairseq is missing: {install}"
    if ours and upstream:
        problem = f"Two distributions provide fairseq and overwrite each other's files: pip uninstall -y fairseq {name}"
        return f"{name} {ours} and fairseq {upstream}", f"{problem} && {install}"
    if upstream:
        problem = f"fairseq {upstream} does not run on Python 3.11 and later, {FAIRSEQ} does"
        return f"the distribution fairseq {upstream}", f"{problem}: pip uninstall -y fairseq && {install}"
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
    harm = "it is of another build than torch, and transformers' Trainer and pipelines fail with it"
    return f"{failure}: {harm}: pip uninstall -y torchaudio (only fairseq's speech tasks need it)"


def _apex() -> tuple[str, str]:
    """Whether NVIDIA's apex (FusedAdam, FusedLayerNorm) is absent, other-project, unusable or ready, and a sentence.

    PyPI has an unrelated project of the same name.
    """
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return "absent", "absent (optional: only the fused CUDA optimizer and layer norm need it)"
    folder = _location(spec)
    if not all((folder / part).is_dir() for part in ("optimizers", "normalization")):
        sentence = f"The installed apex ({folder}) is another project of that name, such as PyPI's toolkit for Pyramid"
        return "other-project", f"{sentence}: pip uninstall apex, and build NVIDIA's from source if needed."
    # What FusedAdam and FusedLayerNorm import; a Python-only build lacks the last two, its CUDA extensions.
    modules = ("apex.optimizers", "apex.normalization", "amp_C", "fused_layer_norm_cuda")
    if failure := next(filter(None, (_try_import(name)[1] for name in modules)), ""):
        sentence = f"NVIDIA's apex is installed but unusable ({failure}): rebuild it with its CUDA extensions"
        return "unusable", f"{sentence} against the installed torch, or pip uninstall apex; it is optional."
    return "ready", f"NVIDIA's, with FusedAdam and FusedLayerNorm ({folder})"


def _cuda(torch: ModuleType | None) -> tuple[str, list[dict[str, Any]], str]:
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
    gpus = []
    for each in map(torch.cuda.get_device_properties, range(torch.cuda.device_count())):
        gpu = {"name": each.name, "capability": f"{each.major}.{each.minor}"}
        # Ampere (8.0) computes in bfloat16; on older ones torch only emulates it
        gpus.append({**gpu, "memory_gib": round(each.total_memory / 2**30, 1), "bf16": each.major >= 8})
    return f"{torch.version.cuda}, {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}", gpus, unserved_gpus(torch)


def unserved_gpus(torch: ModuleType) -> str:
    """A sentence with its remedy if this build of torch has no code for a GPU that it sees, or ""."""
    built_for = torch.cuda.get_arch_list()
    for each in map(torch.cuda.get_device_properties, range(torch.cuda.device_count())):
        if not any(_runs(code, each.major, each.minor) for code in built_for):
            release = torch.__version__.partition("+")[0]
            remedy = f'pip install "torch=={release}" --index-url {CUDA_126}'
            remedy += " (in a clone: make venv CUDA=cu126)" if CLONE else ""
            if (each.major, each.minor) >= (7, 5):
                remedy = "install a build of torch for it"
            build = f"torch {torch.__version__} with CUDA {torch.version.cuda} has code for {', '.join(built_for)} only"
            gpu = f"{each.name} has capability {each.major}.{each.minor}"
            return f"{gpu}, and {build}: {remedy}, or hide the GPU with CUDA_VISIBLE_DEVICES"
    return ""


def _runs(code: str, major: int, minor: int) -> bool:
    """Whether a GPU of that capability runs this entry of `torch.cuda.get_arch_list()`.

    Machine code (sm_80) runs from its capability to the next major one, only on that one if a letter follows; PTX
    (compute_80) is compiled for any later one.
    """
    kind, version, letter = re.fullmatch(r"(\w+)_(\d+)(\w?)", code).groups()  # type: ignore[union-attr]
    built, own = divmod(int(version), 10), (major, minor)
    if kind == "compute":
        return built <= own
    return built == own if letter == "a" else built[0] == major and built <= own


def _version(name: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return distribution(name).version
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
