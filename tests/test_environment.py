"""The environment report, on this machine and on made-up ones with packages missing, broken or of another project."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from linformer_fairseq import environment
from linformer_fairseq.version import __version__

REPOSITORY = Path(__file__).resolve().parents[1]


def run_module(*arguments: str, first: Path | None = None, bare: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run `python -m linformer_fairseq`.

    Args:
        arguments: its flags.
        first: a folder of modules that are found before the installed ones.
        bare: without any installed package.
    """
    path = os.pathsep.join(str(folder) for folder in (first, REPOSITORY) if folder)
    command = [sys.executable, *(["-S"] if bare else []), "-m", "linformer_fairseq", *arguments]
    return subprocess.run(
        command, cwd="/", env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )


def write(file: Path, text: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_path_prints_the_user_dir_and_nothing_else() -> None:
    ran = run_module("--path")
    assert (ran.returncode, ran.stdout) == (0, f"{REPOSITORY / 'linformer_fairseq'}\n")


@pytest.mark.slow
def test_report_as_json_and_as_text_agree() -> None:
    report = json.loads(run_module("--json").stdout)
    assert report["version"] == __version__
    assert report["user_dir"] == str(REPOSITORY / "linformer_fairseq")
    assert set(report["packages"]) == {"torch", "numpy", "sentencepiece", "pyarrow"}
    assert report["fairseq"].startswith("ve-fairseq 0.12.3")
    assert report["cpu_cores"] >= 1
    text = run_module().stdout
    for found in (report["fairseq"], report["packages"]["torch"], report["apex"]["sentence"], report["slurm"]):
        assert found in text


def test_report_without_any_package_names_each_and_its_remedy() -> None:
    ran = run_module(bare=True)
    assert ran.returncode == 1
    assert "torch, numpy, sentencepiece, pyarrow missing: pip install -c constraints.txt -e ." in ran.stdout
    assert 'fairseq is missing: pip install "ve-fairseq==0.12.3"' in ran.stdout
    assert "Traceback" not in ran.stderr


def test_upstream_fairseq_that_cannot_be_imported_has_a_remedy(tmp_path: Path) -> None:
    write(tmp_path / "fairseq/__init__.py", "raise ValueError('mutable default')")
    write(tmp_path / "fairseq-0.12.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: fairseq\nVersion: 0.12.2\n")
    ran = run_module(first=tmp_path, bare=True)
    assert ran.returncode == 1
    assert 'pip uninstall -y fairseq && pip install "ve-fairseq==0.12.3"' in ran.stdout
    assert "Traceback" not in ran.stderr


def test_two_distributions_of_fairseq_have_a_remedy(tmp_path: Path) -> None:
    write(tmp_path / "fairseq/__init__.py")
    for name, version in (("fairseq", "0.12.2"), ("ve_fairseq", "0.12.3")):
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        write(tmp_path / f"{name}-{version}.dist-info/METADATA", metadata)
    ran = run_module(first=tmp_path, bare=True)
    assert 'pip uninstall -y fairseq ve-fairseq && pip install "ve-fairseq==0.12.3"' in ran.stdout


def test_a_folder_that_shadows_fairseq_is_named(tmp_path: Path) -> None:
    write(tmp_path / "fairseq/__init__.py")
    report = json.loads(run_module("--json", first=tmp_path).stdout)
    assert any("take that folder off PYTHONPATH" in p and str(tmp_path) in p for p in report["problems"])


def test_pypis_apex_gives_one_sentence_with_the_remedy(tmp_path: Path) -> None:
    write(tmp_path / "apex/__init__.py", "raise ImportError('cannot import name UnencryptedCookieSessionFactory')")
    ran = run_module("--json", first=tmp_path, bare=True)
    apex = json.loads(ran.stdout)["apex"]
    assert apex["state"] == "other-project"
    assert str(tmp_path / "apex") in apex["sentence"] and "pip uninstall apex" in apex["sentence"]
    assert ran.returncode == 1


@pytest.mark.parametrize(
    ("modules", "state"),
    [(["amp_C.py", "fused_layer_norm_cuda.py"], "ready"), ([], "unusable")],
    ids=["with its extensions", "Python only"],
)
def test_nvidias_apex_needs_its_cuda_extensions(tmp_path: Path, modules: list[str], state: str) -> None:
    for module in ["apex/__init__.py", "apex/optimizers/__init__.py", "apex/normalization/__init__.py", *modules]:
        write(tmp_path / module)
    apex = json.loads(run_module("--json", first=tmp_path, bare=True).stdout)["apex"]
    assert apex["state"] == state


def test_a_torchaudio_of_another_build_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    write(tmp_path / "torchaudio/__init__.py", "raise OSError('Could not load this library: _torchaudio.abi3.so')")
    problem = environment._torchaudio()
    assert "_torchaudio.abi3.so" in problem and "transformers' Trainer" in problem
    assert "pip uninstall -y torchaudio" in problem
    monkeypatch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert environment._torchaudio() == ""


def test_absent_apex_is_fine() -> None:
    report = json.loads(run_module("--json", bare=True).stdout)
    assert report["apex"]["state"] == "absent"
    assert not any("apex" in problem for problem in report["problems"])


CUDA_126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CUDA_130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


def pretended_torch(built_for: list[str], **gpus: tuple[int, int]) -> ModuleType:
    """What the report reads of a CUDA build of torch, on a machine with these GPUs."""
    devices = [
        SimpleNamespace(name=name, major=major, minor=minor, total_memory=16 * 2**30)
        for name, (major, minor) in gpus.items()
    ]
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: len(devices),
        get_device_properties=devices.__getitem__,
        get_arch_list=lambda: built_for,
    )
    version = SimpleNamespace(cuda="13.0")
    return cast(ModuleType, SimpleNamespace(version=version, cuda=cuda, __version__="2.13.0+cu130"))


def test_gpus_older_than_ampere_are_told_to_use_fp16() -> None:
    found, gpus, problem = environment._cuda(pretended_torch(CUDA_126, V100=(7, 0), H100=(9, 0)))
    assert (found, problem) == ("13.0, 2 GPUs", "")
    shown = environment.in_words({**environment.environment_report(), "gpus": gpus})
    assert "  GPU 0          V100, 16.0 GiB, capability 7.0, no bf16: use --fp16\n" in shown
    assert "  GPU 1          H100, 16.0 GiB, capability 9.0, bf16\n" in shown


def test_a_gpu_that_this_build_has_no_code_for_is_named_with_the_build_that_has() -> None:
    _, _, problem = environment._cuda(pretended_torch(CUDA_130, A100=(8, 0), V100=(7, 0)))
    assert problem.startswith(
        "V100 has capability 7.0, and torch 2.13.0+cu130 with CUDA 13.0 has code for sm_75, sm_80"
    )
    assert 'pip install "torch==2.13.0" --index-url https://download.pytorch.org/whl/cu126' in problem
    assert "make venv CUDA=cu126" in problem and "CUDA_VISIBLE_DEVICES" in problem


@pytest.mark.parametrize(
    ("built_for", "capability", "runs"),
    [
        (CUDA_130, (7, 0), False),
        (CUDA_130, (8, 9), True),  # L4: sm_86
        (CUDA_126, (10, 0), False),  # B200
        (CUDA_130, (12, 1), True),  # sm_120 and PTX
        (["sm_86"], (8, 0), False),
        (["sm_90a"], (9, 1), False),
        (["sm_90a"], (9, 0), True),
        (["compute_70"], (9, 0), True),
    ],
)
def test_which_code_runs_on_which_gpu(built_for: list[str], capability: tuple[int, int], runs: bool) -> None:
    assert (environment.unserved_gpus(pretended_torch(built_for, GPU=capability)) == "") is runs


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo slurm 24.05.4", "slurm 24.05.4, inside job 17, no sbatch on PATH"),
        ("echo no configuration >&2; exit 1", "fails (no configuration), inside job 17"),
    ],
)
def test_slurm_answers_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: str
) -> None:
    write(tmp_path / "scontrol", f"#!/bin/sh\n{script}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert found in environment._slurm()
