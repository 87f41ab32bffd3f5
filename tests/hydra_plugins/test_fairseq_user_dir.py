"""The plugin is where hydra looks for it, in the package as it is built and as it is installed here."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WHOSE_CALL_MAIN = """
import fairseq.distributed.utils as utils
from hydra.core.plugins import Plugins
Plugins.instance()
print(utils.call_main.__module__)
"""


def isolated(script: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a script that sees installed packages only, and not this folder."""
    return subprocess.run([sys.executable, "-I", "-c", script], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_hydra_finds_the_installed_plugin(tmp_path: Path) -> None:
    if isolated("import importlib.metadata as m; m.distribution('linformer-fairseq')", tmp_path).returncode:
        pytest.skip("linformer-fairseq is not installed in this environment: make venv")
    ran = isolated(WHOSE_CALL_MAIN, tmp_path)
    assert ran.stdout.split()[-1:] == ["hydra_plugins.fairseq_user_dir"], ran.stderr


def test_build_holds_the_plugin_once_and_where_hydra_looks(tmp_path: Path) -> None:
    egg_info = ["egg_info", "--egg-base", str(tmp_path)]
    command = [sys.executable, "setup.py", "-q", *egg_info, "build", "--build-base", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    built = [str(file.relative_to(tmp_path / "lib")) for file in tmp_path.glob("lib/**/fairseq_user_dir.py")]
    assert built == ["hydra_plugins/fairseq_user_dir.py"]
