"""The architecture page names files that exist, and every room of the package."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_every_file_that_a_walk_names_exists() -> None:
    named = re.findall(r"`((?:linformer_fairseq|data_prep|tests)/[\w./]+)`", PAGE)
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_room_has_a_file_to_read_first() -> None:
    rooms = {path.parent.name for path in ROOT.glob("linformer_fairseq/*/__init__.py")}
    table = set(re.findall(r"^\| `linformer_fairseq/(\w+)/`", PAGE, re.MULTILINE))
    assert rooms - table <= {"commands", "criterions", "optim", "hf", "measuring"}
