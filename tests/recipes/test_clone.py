"""A clone beside an installed package: its scripts run its own code, or say that they would not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: Path, *arguments: object, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of another version of the package, without commands."""
    package = tmp_path / "installed/linformer_fairseq"
    package.mkdir(parents=True)
    for name in ("__init__.py", "version.py", "paths.py"):
        shutil.copyfile(ROOT / "linformer_fairseq" / name, package / name)
    return package.parent


def test_a_recipe_runs_the_code_beside_it(installed: Path) -> None:
    for script, program in (("recipes/convert.py", "convert"), ("slurm/launch.py", "launch")):
        ran = run(ROOT / script, "--help", path=installed)
        assert ran.returncode == 0 and ran.stdout.startswith(f"usage: linformer {program}"), ran.stderr


def test_another_script_of_a_clone_says_what_it_would_run(installed: Path) -> None:
    ran = run(ROOT / "recipes/measure/update_speed.py", "--help", path=installed)
    assert ran.returncode == 1
    assert ran.stderr.strip().endswith(f"would run the code in {installed}/linformer_fairseq: pip install -e {ROOT}")


def test_a_script_that_imports_fairseq_and_matplotlib_prints_its_help_alone() -> None:
    ran = run(ROOT / "recipes/measure/long_documents.py", "--help", path=ROOT)
    assert ran.returncode == 0 and ran.stdout.startswith("usage: ") and not ran.stderr


def test_a_user_dir_of_another_name_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(ROOT / "linformer_fairseq")
    script = tmp_path / "script.py"
    script.write_text("import other")
    ran = run(script, path=tmp_path)
    assert ran.stderr == f"error: --user-dir {tmp_path}/other: give it as {ROOT}/linformer_fairseq\n"


def test_the_folder_of_a_clone_is_a_user_dir_too(tmp_path: Path) -> None:
    (tmp_path / "my-clone").symlink_to(ROOT)
    script = tmp_path / "script.py"
    script.write_text(
        "import fairseq.models, fairseq.utils, argparse\n"
        f"fairseq.utils.import_user_module(argparse.Namespace(user_dir={str(tmp_path / 'my-clone')!r}))\n"
        "print('linformer_roberta_tiny' in fairseq.models.ARCH_MODEL_REGISTRY)"
    )
    assert run(script, path=tmp_path).stdout == "True\n"
