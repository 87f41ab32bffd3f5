"""Real texts, where they are available."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A file or folder in $LINFORMER_TEST_DATA; the test is skipped where it is missing."""

    def find(name: str) -> Path:
        folder = os.environ.get("LINFORMER_TEST_DATA")
        if not folder:
            pytest.skip("LINFORMER_TEST_DATA does not name a folder with real texts")
        path = Path(folder) / name
        if not path.exists():
            pytest.skip(f"LINFORMER_TEST_DATA={folder} has no {name}")
        return path

    return find
