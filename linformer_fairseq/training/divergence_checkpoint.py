"""The newest checkpoint of a folder that a training can go on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linformer_fairseq.training import damage


def last_good_checkpoint(save_dir: Path, until: int) -> tuple[Path, int] | None:
    """The newest checkpoint in a folder that was saved at update `until` or before, is whole and finite.

    Returns:
        It and its updates; None if there is none. Of copies with the same updates, a numbered one comes before
        `checkpoint_best.pt` and `checkpoint_last.pt`, which a later save replaces.
    """
    found: list[tuple[int, bool, Path]] = []
    for path in save_dir.glob("checkpoint*.pt"):
        updates = updates_of(path)
        if updates is not None and updates <= until:
            found.append((updates, path.name not in ("checkpoint_last.pt", "checkpoint_best.pt"), path))
    for updates, _, path in sorted(found, reverse=True):
        if damage.damage(path) is None and _is_finite(path):
            return path, updates
    return None


def updates_of(path: Path) -> int | None:
    """After how many updates a checkpoint was saved; None for a file that is not a whole checkpoint of fairseq."""
    content = _content(path)
    history = content.get("optimizer_history") or [{}]
    return history[-1].get("num_updates") if isinstance(history[-1], Mapping) else None


def _is_finite(path: Path) -> bool:
    tensors = [value for value in _content(path).get("model", {}).values() if isinstance(value, Tensor)]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())


def _content(path: Path) -> Mapping[str, Any]:
    """What a file holds, its tensors left on the disk until they are used; nothing of a damaged file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever is wrong with it, it is not the one to go on from
        return {}
    return content if isinstance(content, Mapping) else {}
