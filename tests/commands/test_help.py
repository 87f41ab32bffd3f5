"""`--help` answers at once: it loads neither PyTorch, fairseq, NumPy nor PyArrow."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "words",
    [["encode"], ["report"], ["finetune"], ["finetune", "train"], ["finetune", "predict"], ["glue"]],
    ids=" ".join,
)
def test_help_imports_only_what_it_needs(words: list[str]) -> None:
    code = (
        "import sys, atexit; from linformer_fairseq.cli import main; heavy = 'torch fairseq numpy pyarrow'.split();"
        "atexit.register(lambda: print('loaded:', [name for name in heavy if name in sys.modules])); main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True, check=True)
    assert "usage: linformer" in done.stdout and done.stdout.endswith("loaded: []\n")
