"""The hooks cost what they give: each function is replaced once, and helpers import neither PyTorch nor fairseq."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own, where no other test has replaced a function.
REPLACED = """
from pathlib import Path
from linformer_fairseq.plugin import register
register()
from linformer_fairseq import compat
from linformer_fairseq.training import hooks
replaced = [(owner, name) for owner, name, *_ in compat.replacements]
assert len(replaced) == len(set(replaced)) > 20
for owner, name in replaced:
    replacement = getattr(owner, name)
    files = [Path(function.__code__.co_filename) for function in (replacement, replacement.__wrapped__)]
    inherited = any(name in vars(above) for above in getattr(owner, "__mro__", [])[1:])  # and replaced there too
    assert files[0] == Path(hooks.__file__) and (inherited or files[1] != files[0]), name
"""


def test_each_function_of_fairseq_is_replaced_once() -> None:
    done = subprocess.run([sys.executable, "-c", REPLACED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["training.metrics", "training.progress", "training.recipe", "training.signals"])
def test_importing_a_helper_loads_neither_pytorch_nor_fairseq(module: str) -> None:
    code = f"import sys, linformer_fairseq.{module}; sys.exit(bool({{'torch', 'fairseq'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
