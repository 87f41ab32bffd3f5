"""What is declared, pinned and documented about the installation agrees; the Makefile and the wheel work."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import setuptools
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from linformer_fairseq.environment import FAIRSEQ, REQUIRED
from linformer_fairseq.version import __version__

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("hf", "slurm", "docs", "dev")


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments that setup.py gives to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return given


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """constraints.txt: the version of each package."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), "every line must be NAME==VERSION"
    assert len({canonicalize_name(name) for name, _ in pairs}) == len(pairs), "a package is pinned twice"
    return {canonicalize_name(name): version for name, version in pairs}


def direct_dependencies(declared: dict[str, Any]) -> list[Requirement]:
    extras = [line for extra in EXTRAS for line in declared["extras_require"][extra]]
    return [Requirement(line) for line in (*declared["install_requires"], *extras)]


def test_every_direct_dependency_is_pinned_within_its_range(declared: dict[str, Any], pins: dict[str, str]) -> None:
    for requirement in direct_dependencies(declared):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin and requirement.specifier.contains(pin), f"{requirement} is not met by constraints.txt ({pin})"


def test_every_indirect_dependency_is_pinned_within_its_range(declared: dict[str, Any], pins: dict[str, str]) -> None:
    """Follows the metadata of what is installed here; the extras that are not installed end a branch."""
    queue, seen = direct_dependencies(declared), set[str]()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is missing in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{requirement} is not met by the pin {pins[name]}"
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        queue += [
            needed for needed in map(Requirement, lines) if not needed.marker or needed.marker.evaluate({"extra": ""})
        ]
    assert len(seen) > 50


def test_build_tag_of_a_local_torch_satisfies_its_pin(pins: dict[str, str]) -> None:
    assert Requirement(f"torch=={pins['torch']}").specifier.contains(f"{pins['torch']}+cpu")
    assert version("torch").partition("+")[0] == pins["torch"]


def test_one_version_everywhere(declared: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert declared["version"] == citation["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert declared["license"] == citation["license"] == "MIT"


def test_citation_prefers_the_paper() -> None:
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Wang", "Li", "Khabsa", "Fang", "Ma"]
    assert (paper["year"], paper["identifiers"][0]["value"]) == (2020, "arXiv:2006.04768")


def test_environment_report_looks_for_what_setup_declares(declared: dict[str, Any]) -> None:
    assert FAIRSEQ in declared["install_requires"]
    assert set(REQUIRED) <= {Requirement(line).name for line in declared["install_requires"]}


def test_every_package_is_installed(declared: dict[str, Any]) -> None:
    folders = {file.parent for room in ("linformer_fairseq", "data_prep") for file in (ROOT / room).rglob("*.py")}
    where = {folder: name for name, folder in declared["package_dir"].items()}
    names = {str(folder.relative_to(ROOT)) for folder in folders} | where.keys()
    assert {where.get(name, name.replace("/", ".")) for name in names} == set(declared["packages"])


# --- Makefile


def make(*argv: str, cwd: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run make as from a fresh shell: without the variables of a make or pytest around it."""
    env = {"PATH": path or os.environ["PATH"], "HOME": str(cwd)}
    return subprocess.run(["make", *argv], cwd=cwd, env=env, capture_output=True, text=True)


FAKE_PYTHON = """#!/bin/sh
# Answers version checks with the real Python, and writes down what would be installed.
case "$1 $2" in
  "-c "*ensurepip*) exit {ensurepip} ;;
  "-c "*torchaudio*) exit {torchaudio} ;;
  "-c "*) exec {python} "$@" ;;
  "-m venv") echo venv >> calls; rm -rf .venv; mkdir -p .venv/bin; cp "{fake}" .venv/bin/python ;;
  "-m pip") shift 3; echo "pip $*" >> calls ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what `make venv` needs, in a folder with a space in its name."""
    folder = tmp_path / "my project"
    folder.mkdir()
    for name in ("Makefile", "setup.py", "constraints.txt", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    return folder


def fake_python(folder: Path, ensurepip: int = 0, torchaudio: int = 0) -> str:
    file = folder / "fake-python"
    file.write_text(FAKE_PYTHON.format(python=sys.executable, fake=file, ensurepip=ensurepip, torchaudio=torchaudio))
    file.chmod(0o755)
    return f"PYTHON={file}"


def calls(project: Path) -> list[str]:
    """What the fake Python was asked since the last look."""
    file = project / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


HASHED = "pip --require-hashes --no-deps --no-build-isolation -r"


def install(pins: dict[str, str], index: str = "") -> list[str]:
    """What make asks pip for; `index` is that of another build of torch."""
    file, build = (".venv/constraints.txt", f"+{Path(index).name}") if index else ("constraints.txt", "")
    torch = f"pip -c {file} torch=={pins['torch']}{build}" + (f" --extra-index-url {index}" if index else "")
    hashed = [f"{HASHED} .venv/setuptools.lock", f"{HASHED} requirements.lock"]
    return [*hashed, torch, f"pip -c {file} --no-build-isolation -e .[dev]"]


def test_every_pin_but_those_of_torch_has_hashes(pins: dict[str, str]) -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.removesuffix(" \\").split("==") for line in lines if "==" in line)
    free = {name for name in pins if re.match("torch|cuda|nvidia|triton", name)}
    assert {canonicalize_name(name): version for name, version in locked.items()} == {
        name: version for name, version in pins.items() if name not in free
    }
    blocks = re.split(r"\n(?=\S)", "\n".join(line for line in lines if not line.startswith("#")))
    assert all("--hash=sha256:" in block for block in blocks)


def test_environment_is_made_once(project: Path, tmp_path: Path, pins: dict[str, str]) -> None:
    python = fake_python(tmp_path)
    assert make("-j4", "venv", python, cwd=project).returncode == 0
    assert calls(project) == ["venv", *install(pins)]
    assert make("venv", python, cwd=project).returncode == 0
    assert calls(project) == []


def test_a_torchaudio_that_cannot_be_loaded_does_not_stay(project: Path, tmp_path: Path, pins: dict[str, str]) -> None:
    assert make("venv", fake_python(tmp_path, torchaudio=1), cwd=project).returncode == 0
    assert calls(project) == ["venv", *install(pins), "pip -q -y torchaudio"]


@pytest.mark.parametrize("file", ["constraints.txt", "setup.py", "requirements.lock"])
def test_changed_pins_are_installed_into_the_same_environment(
    project: Path, tmp_path: Path, pins: dict[str, str], file: str
) -> None:
    python = fake_python(tmp_path)
    make("venv", python, cwd=project)
    calls(project)
    later = (project / ".venv/installed-in").stat().st_mtime + 10
    os.utime(project / file, (later, later))
    assert make("venv", python, cwd=project).returncode == 0
    assert calls(project) == install(pins)


def test_another_cuda_brings_its_own_packages_and_is_kept(project: Path, tmp_path: Path, pins: dict[str, str]) -> None:
    python = fake_python(tmp_path)
    make("venv", python, cwd=project)
    calls(project)
    assert make("venv", "CUDA=cu126", python, cwd=project).returncode == 0
    assert calls(project) == install(pins, "https://download.pytorch.org/whl/cu126")
    kept = (project / ".venv/constraints.txt").read_text()
    assert f"torch=={pins['torch']}\n" in kept and not re.search("^(cuda|nvidia|triton)", kept, re.MULTILINE)
    assert make("venv", python, cwd=project).returncode == 0  # as `make test` would
    assert calls(project) == []


def test_interrupted_installation_is_taken_up(project: Path, tmp_path: Path, pins: dict[str, str]) -> None:
    python = fake_python(tmp_path)
    make("venv", python, cwd=project)
    calls(project)
    (project / ".venv/installed-in").unlink()
    make("venv", python, cwd=project)
    assert calls(project) == install(pins)


def test_moved_environment_is_made_anew(project: Path, tmp_path: Path, pins: dict[str, str]) -> None:
    python = fake_python(tmp_path)
    make("venv", python, cwd=project)
    calls(project)
    moved = project.rename(tmp_path / "elsewhere")
    assert make("venv", python, cwd=moved).returncode == 0
    assert calls(moved) == ["venv", *install(pins)]


def test_environment_without_its_interpreter_is_made_anew(project: Path, tmp_path: Path, pins: dict[str, str]) -> None:
    python = fake_python(tmp_path)
    make("venv", python, cwd=project)
    calls(project)
    (project / ".venv/bin/python").unlink()
    assert make("venv", python, cwd=project).returncode == 0
    assert calls(project) == ["venv", *install(pins)]


def test_missing_python_is_one_sentence(project: Path, tmp_path: Path) -> None:
    ran = make("venv", "PYTHON=/no/such/python", cwd=project)
    assert ran.returncode == 2
    assert "Python 3.11 or 3.12 is needed and /no/such/python is neither" in ran.stderr
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("make", "sh", "rm"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    ran = make("venv", cwd=project, path=str(tools))
    assert "Python 3.11 or 3.12 is needed and none on PATH" in ran.stderr
    assert not (project / ".venv").exists()


def test_missing_ensurepip_names_the_debian_package(project: Path, tmp_path: Path) -> None:
    ran = make("venv", fake_python(tmp_path, ensurepip=1), cwd=project)
    assert ran.returncode == 2
    assert "apt-get install python3-venv" in ran.stderr


def test_help_lists_every_target_and_is_the_default() -> None:
    phony = re.search(r"^\.PHONY: (help .+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    listed = make(cwd=ROOT).stdout
    assert re.findall(r"^  make (\S+) ", listed, re.MULTILINE) == phony[1].split()
    assert {"demo", "test", "test-fast", "lint", "docs", "wheel", "clean"} <= set(phony[1].split())


def test_ci_runs_linters_and_tests() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()
    commands = make("-n", "test", cwd=ROOT).stdout
    for command in ("ruff check", "ruff format --check", "mypy", "-m pytest"):
        assert command in commands


def test_workflows_run_targets_and_pythons_that_exist() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs.keys() == {"lint", "test", "transformers", "wheel", "docs"}
    assert jobs["test"]["strategy"]["matrix"]["python-version"] == ["3.11", "3.12"]
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    for name, job in jobs.items():
        target = "venv" if name == "transformers" else name
        assert any(step.get("run", "").startswith(f"make {target}") for step in job["steps"])
        assert target in phony[1].split()


# --- the wheel


def run(*words: object, cwd: Path) -> str:
    """Run a command without this checkout in sight; its output."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    argv = [str(word) for word in words]
    done = subprocess.run(argv, cwd=cwd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{argv} ended with {done.returncode}:\n{done.stdout[-5000:]}"
    return done.stdout


def build_wheel(source: Path, to: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", to, source, cwd=to.parent)
    (wheel,) = to.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, in which the build may leave what it likes."""
    folder = tmp_path_factory.mktemp("source") / "linformer-fairseq"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "site", "runs", "demo-run")
    shutil.copytree(ROOT, folder, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment that has the wheel, and this environment's other packages."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    python = venv / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel, cwd=venv.parent)
    (packages,) = venv.glob("lib/python*/site-packages")
    # Folders in a .pth file are searched last, and their own .pth files, such as those of this checkout, are not read.
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    for entry in entry_points(group="console_scripts"):
        if entry.name.startswith("fairseq-"):
            program = f"#!{python}\nimport sys\nfrom {entry.module} import {entry.attr}\nsys.exit({entry.attr}())\n"
            (venv / "bin" / entry.name).write_text(program)
            (venv / "bin" / entry.name).chmod(0o755)
    return venv / "bin"


@pytest.mark.slow
def test_the_sdist_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (sdist,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    again = build_wheel(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "wheel")
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(names)
    modules = {
        str(file.relative_to(ROOT))
        for room in ("linformer_fairseq", "data_prep")
        for file in ROOT.glob(f"{room}/**/*.py")
    }
    assert {name.replace("linformer_fairseq/hydra_plugins", "hydra_plugins") for name in modules} <= set(names)
    for pattern in ("recipes/pretrain/*", "recipes/finetune/*", "slurm/*.sh"):
        files = [str(file.relative_to(ROOT)) for file in ROOT.glob(pattern)]
        assert files and {f"linformer_fairseq/{name}" for name in files} <= set(names)


@pytest.mark.slow
def test_the_installed_commands_work_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    def linformer(*words: object) -> str:
        return run(installed / "linformer", *words, cwd=tmp_path)

    where = linformer("env", "--path").strip()
    assert Path(where).is_relative_to(installed.parent), "this checkout is what was imported"
    assert where in linformer("env")
    script = Path(linformer("launch", "script", "pretrain").strip())
    assert script.is_relative_to(where) and os.access(script, os.X_OK)
    assert "#SBATCH --array=0-3%4" in linformer("launch", "prepare", "demo", "--out", "data", "--dry-run")

    text = Path(str(sysconfig.get_path("purelib"))) / "numpy"
    docstrings = f"sources.0.inputs=[{text / 'lib'},{text / 'linalg'},{text / 'random'}]"
    linformer("prepare", "run", "demo", docstrings, "tokenizer.vocab_size=512", "split.valid=0.2", "--out", "data")
    small = ["--encoder-layers", 1, "--encoder-embed-dim", 32, "--encoder-ffn-embed-dim", 64]
    quick = ["--max-update", 2, "--batch-size", 2, "--disable-validation"]
    linformer("train", "tiny_n512_k128", "data/data", "--save-dir", "run", "--", *small, *quick)
    checkpoint = tmp_path / "run/checkpoint_last.pt"
    linformer("convert", "to-hf", checkpoint, "exported")
    assert {"config.json", "model.safetensors"} <= {file.name for file in (tmp_path / "exported").iterdir()}

    table = "text\tlabel\n" + "the array of numbers\tnumbers\na string of characters\tstrings\n" * 8
    (tmp_path / "train.tsv").write_text(table)
    tables = ["--train", "train.tsv", "--dev", "train.tsv", "--text-column", "text", "--label-column", "label"]
    linformer("finetune", "train", "--checkpoint", checkpoint, *tables, "--epochs", 1, "--out", "tuned")
    linformer(
        "encode", "--checkpoint", "tuned/model.pt", "--predict", "--input", "train.tsv", "--out", "labels.parquet"
    )
    assert pyarrow.parquet.read_table(tmp_path / "labels.parquet").num_rows == 16
