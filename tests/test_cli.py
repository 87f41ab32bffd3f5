"""The command `linformer`: help that is quick, exit statuses, and errors in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from linformer_fairseq import cli
from linformer_fairseq.errors import UsageError
from linformer_fairseq.version import __version__

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "fairseq", "transformers", "matplotlib", "pyarrow", "scipy", "sklearn")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_loads_nothing_heavy(name: str) -> None:
    code = (
        "import sys; from linformer_fairseq.cli import main\n"
        f"try: main([{name!r}, '--help'])\n"
        f"finally: print('loaded:', *(set({HEAVY!r}) & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in cli.COMMANDS)
    assert cli.main([]) == 2


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"linformer_fairseq {__version__}\n"


@pytest.mark.parametrize(
    ("word", "remedy"), [("finetun", "did you mean finetune?"), ("xyz", f"choose one of {', '.join(cli.COMMANDS)}")]
)
def test_an_unknown_command(word: str, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 2
    assert capsys.readouterr().err == f"linformer: error: {word}: no such command; {remedy}\n"


def test_a_command_gets_its_words_and_its_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(argv: Sequence[str]) -> int:
        raise UsageError(f"--depth {argv[1]}: too deep")

    module = ModuleType("convert")
    monkeypatch.setattr(module, "main", command, raising=False)
    monkeypatch.setitem(sys.modules, "linformer_fairseq.commands.convert", module)
    assert cli.main(["convert", "--depth", "3"]) == 1
    assert capsys.readouterr().err == "linformer convert: error: --depth 3: too deep\n"


def test_python_m_without_a_command_is_env() -> None:
    for words in (["--path"], ["env", "--path"]):
        done = subprocess.run([sys.executable, "-m", "linformer_fairseq", *words], capture_output=True, text=True)
        assert done.stdout.strip().endswith("linformer_fairseq")
