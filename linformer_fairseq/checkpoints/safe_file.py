"""A checkpoint as one .safetensors file: tensors and plain text, nothing that could run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, atomically, read
from linformer_fairseq.errors import UsageError

SUFFIX = ".safetensors"
_FIELD = "linformer_fairseq"


def write_safetensors(checkpoint: Checkpoint, path: Path, force: bool = False) -> None:
    """Writes the file; a matrix that several names share is stored once.

    Raises:
        UsageError: the file exists, and not `force`.
    """
    first: dict[tuple[int, Any], str] = {}
    same: dict[str, str] = {}
    stored: dict[str, Tensor] = {}
    for key, value in checkpoint.state.items():
        original = first.setdefault((value.data_ptr(), value.shape), key) if value.numel() else key
        if original == key:
            stored[key] = value.detach().contiguous()
        else:
            same[key] = original
    about = {"model": checkpoint.model, "task": checkpoint.task, "updates": checkpoint.updates}
    about |= {"notes": checkpoint.notes, "scores": checkpoint.scores, "same": same}
    with atomically(path, force) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(stored, temporary, {_FIELD: json.dumps(about, default=str), "format": "pt"})
        temporary.chmod(mode)  # the library makes it readable to its owner only


def read_safetensors(path: Path) -> Checkpoint:
    """Reads what `write_safetensors` has written.

    Raises:
        UsageError: another or a damaged file.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(_FIELD, "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is not a whole safetensors file ({error})") from error
    if about is None:
        raise UsageError(f"{path} holds no settings of a checkpoint; it was not written by to-safetensors")
    state |= {key: state[original] for key, original in about["same"].items()}
    return Checkpoint(state, about["model"], about["task"], about["updates"], about["notes"], about["scores"])


def read_any(path: Path) -> Checkpoint:
    """Reads a .pt file of fairseq, or a .safetensors file."""
    return read_safetensors(path) if path.suffix == SUFFIX else read(path)
