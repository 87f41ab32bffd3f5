"""Checkpoints as .safetensors files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, digest
from linformer_fairseq.checkpoints.safe_file import read_any, read_safetensors, write_safetensors
from linformer_fairseq.errors import UsageError


@pytest.mark.parametrize("untied", [True, False])
def test_every_tensor_comes_back(make_checkpoint: Callable[..., Checkpoint], untied: bool, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(heads={"topic": 3}, untie_weights_roberta=untied)
    checkpoint.scores["accuracy"] = 81.5
    path = tmp_path / "a.safetensors"
    write_safetensors(checkpoint, path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    again = read_any(path)
    assert again.state.keys() == checkpoint.state.keys() and digest(again.state) == digest(checkpoint.state)
    assert (again.model, again.task, again.updates) == (checkpoint.model, checkpoint.task, 7)
    assert again.scores == {"accuracy": 81.5}
    build(again)
    with pytest.raises(UsageError, match="exists"):
        write_safetensors(checkpoint, path)


def test_other_files_are_refused(make_checkpoint: Callable[..., Checkpoint], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(UsageError, match="holds no settings of a checkpoint"):
        read_safetensors(path)
    write_safetensors(make_checkpoint(), path, force=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        read_safetensors(path)
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        read_safetensors(tmp_path / "absent.safetensors")
