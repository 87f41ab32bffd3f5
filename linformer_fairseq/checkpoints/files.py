"""The files that hold a model's tensors and its JSON; whatever is not whole is refused in a sentence."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from linformer_fairseq.compat.checkpoints import load
from linformer_fairseq.errors import UsageError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # or the same with .index.json, which names several files


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, which must be an object; anything else is a UsageError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds no JSON object; download it again")
    return content


def save_tensors(state: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file with the mode of other new files; the library makes it readable to its owner only."""
    from safetensors.torch import save_file  # of the extra `hf`

    path.touch()
    mode = path.stat().st_mode
    save_file(state, path, {**metadata, "format": "pt"})
    path.chmod(mode)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; a UsageError if it is not a whole one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: missing or not a whole safetensors file ({error})") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All parameters in a folder of transformers, from one file or several; a UsageError if one is not whole."""
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _read(folder / name)
        if index.is_file():
            files = sorted({Path(file).name for file in read_json(index).get("weight_map", {}).values()})
            return {key: value for file in files for key, value in _read(folder / file).items()}
    raise UsageError(f"{folder}: has neither {' nor '.join(WEIGHTS)}")


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"{path}: missing, though the index names it; download it again")
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    with path.open("rb") as file:
        content = load(file, map_location="cpu")
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: holds no table of parameters")
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}
