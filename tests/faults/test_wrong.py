"""Wrong invocations end in one sentence; a part of the table, whose whole tally is published."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.cli import _STAGES
from linformer_fairseq import cli
from tests.faults.commands import COMMANDS
from tests.faults.in_process import run
from tests.faults.invocations import invocations, parser_of

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs/benchmarks/wrong.md"


@pytest.mark.slow
def test_wrong_invocations_are_refused_in_a_sentence(tmp_path: Path) -> None:
    tally = tmp_path / "wrong.md"
    command = [sys.executable, "-m", "tests.faults.wrong", "--every", "8", "--out", str(tally)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-20_000:]
    tried, held = map(int, re.findall(r"\d+", tally.read_text().splitlines()[-1]))
    assert tried == held >= 300


def test_every_command_is_in_the_table() -> None:
    known = {command.words for command in COMMANDS}
    for name in cli.COMMANDS.keys() - {"prepare"}:
        assert any(words.startswith(f"linformer {name}") for words in known), name
    assert {f"data_prep {stage}" for stage in _STAGES} <= known
    scripts = [path for path in ROOT.glob("recipes/*/*.py") if "MEASUREMENT = " in path.read_text()]
    assert {str(path.relative_to(ROOT)) for path in scripts} <= known


def test_the_published_tally_is_of_this_table(tmp_path: Path) -> None:
    counts = {
        name: len(list(invocations(c, parser_of(c.words, run), tmp_path))) for c in COMMANDS for name in [c.words]
    }
    published = re.findall(r"^\| `(.+)` \| (\d+) \| (\d+) \|$", PUBLISHED.read_text(), re.MULTILINE)
    assert {name: int(tried) for name, tried, _ in published} == counts
    assert all(tried == held for _, tried, held in published)
