"""Reports name no folder of the machine that they were made on."""

from __future__ import annotations

from pathlib import Path

from recipes.reproduce.command import as_typed


def test_a_report_names_the_command_without_folders(tmp_path: Path) -> None:
    words = [str(tmp_path / "text"), "--out", "runs", "--n", "512", "--report", str(tmp_path), "--betas", "(0.9, 0.98)"]
    expected = "python recipes/reproduce/update_speed.py DATA --n 512 --betas '(0.9, 0.98)'"
    assert as_typed(str(tmp_path / "update_speed.py"), words) == expected
