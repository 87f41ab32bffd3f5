"""The command line that a report names, so that it can be repeated elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def as_typed(script: str, words: Sequence[str]) -> str:
    """The command without --out and --report and what follows them; a folder by its whole path becomes DATA.

    Args:
        script: the file's path.
        words: its arguments.
    """
    left = iter(words)
    shown = [word for word in left if not (word in ("--out", "--report") and next(left, None))]
    shown = ["DATA" if Path(word).is_absolute() else word for word in shown]
    return shlex.join(["python", f"recipes/reproduce/{Path(script).name}", *shown])
