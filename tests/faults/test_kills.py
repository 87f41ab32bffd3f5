"""The script that kills trainings keeps its promises with a few kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import kills


@pytest.mark.slow
def test_a_few_kills(tmp_path: Path) -> None:
    tally, broken = kills.run(2, tmp_path, seed=3)
    assert not broken
    assert tally["kills"] == 2
    assert tally["values that differ in the end"] == 0
