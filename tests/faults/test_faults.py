"""The harness finds nothing that does not hold, in a few faults of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import faults
from tests.faults.injection import Ended, Fault, run


@pytest.mark.slow
def test_faults_hold(tmp_path: Path) -> None:
    tried, broken = faults.tally(1, tmp_path, ["clean"], seed=2)
    assert not broken and tried.total() > 15


def _write(words: object) -> int:
    Path("out").write_text("text")
    Path("end").write_text("text")
    return 0


@pytest.mark.parametrize(
    ("fault", "status", "left"),
    [
        (Fault("none"), 0, ["end", "out"]),
        (Fault("kill", 2), -9, ["out"]),
        (Fault("folder vanishes", 2), 0, ["end"]),
        (Fault("disk full", 2), 70, ["out"]),
        (Fault("input/output error", 1), 70, []),
        (Fault("file size", 3), 70, ["out"]),
    ],
)
def test_a_fault_happens_at_its_step(tmp_path: Path, fault: Fault, status: int, left: list[str]) -> None:
    ended = run(_write, [], tmp_path, fault, "out")
    assert ended.status == status and sorted(path.name for path in tmp_path.iterdir()) == left


def test_what_is_a_sentence() -> None:
    assert Ended(1, "some progress\nx: error: no space left; free some\n", 0).sentence()
    assert not Ended(1, "Traceback (most recent call last):\nx: error: y\n", 0).sentence()
    assert not Ended(0, "x: error: y\n", 0).sentence() and not Ended(1, "", 0).sentence()
