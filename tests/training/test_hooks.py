"""The hooks cost what they give: an update passes through few files, and helpers import neither PyTorch nor fairseq."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from linformer_fairseq.training import hooks

# Prints the files of this project that the second update, from its first call to that of the third, goes through.
PROFILED = """
import sys
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

files, calls = set(), []
begin_epoch = Trainer.begin_epoch

def watched(self, epoch):
    train_step = self.train_step
    def step(*arguments, **named):
        calls.append(1)
        sys.setprofile((lambda frame, *_: files.add(frame.f_code.co_filename)) if len(calls) == 2 else None)
        return train_step(*arguments, **named)
    self.train_step = step
    begin_epoch(self, epoch)

Trainer.begin_epoch = watched
cli_main()
for file in sorted(files):
    print("PASSED", file)
"""


def test_an_update_passes_through_three_files(
    train_command: Callable[..., list[str]], finish: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(PROFILED)
    command = train_command(tmp_path / "run", "--max-update", 3, "--log-interval", 100)
    output = finish([sys.executable, str(tmp_path / "train.py"), *command[1:]])
    passed = re.findall(r"PASSED \S+/linformer_fairseq/(?:training|compat)/(\S+)\.py", output)
    assert passed == ["divergence", "hooks", "recorder"]


def test_each_function_of_fairseq_is_replaced_once() -> None:
    replaced = [(owner, name) for owner, name, _ in hooks._replacements]
    assert len(replaced) == len(set(replaced)) > 10
    for owner, name in replaced:
        replacement = getattr(owner, name)
        files = [Path(function.__code__.co_filename).name for function in (replacement, replacement.__wrapped__)]
        assert files[0] == "hooks.py" and files[1] != "hooks.py", name


@pytest.mark.parametrize("module", ["training.metrics", "training.progress", "training.recipe", "training.signals"])
def test_importing_a_helper_loads_neither_pytorch_nor_fairseq(module: str) -> None:
    code = f"import sys, linformer_fairseq.{module}; sys.exit(bool({{'torch', 'fairseq'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
