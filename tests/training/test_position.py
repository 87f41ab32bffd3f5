"""What a saved position depends on, named where it has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.training import position


def settings(data: str, **changes: Any) -> Any:
    """Those of a run, as much as is read."""
    cfg = {
        "common": {"seed": 1},
        "dataset": {"train_subset": "train", "batch_size": 16},
        "task": {"_name": "masked_lm", "data": data, "tokens_per_sample": 64, "sample_break_mode": "none"},
    }
    for section in cfg.values():
        section.update({name: value for name, value in changes.items() if name in section})
    return OmegaConf.create(cfg)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the files of a masked-LM data set, of a fine-tuning, and others."""
    for name in (
        "dict.txt",
        "train.bin",
        "train.idx",
        "valid.bin",
        "train.log",
        "input0/train.bin",
        "label/train.label",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name * 50)
    return tmp_path


@pytest.mark.parametrize("name", ["dict.txt", "train.bin", "train.idx", "input0/train.bin", "label/train.label"])
def test_a_change_of_the_content_is_named(data: Path, name: str) -> None:
    before = position.of(settings(str(data)))
    stamp = (data / name).stat()
    text = (data / name).read_text()
    (data / name).write_text(text[:70] + "#" + text[71:])
    os.utime(data / name, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert position.changes(before, position.of(settings(str(data)))) == [Path(name).name]


def test_another_folder_with_the_same_content_is_the_same(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = position.of(settings(str(data)))
    moved = data.rename(tmp_path_factory.mktemp("other") / "data")
    for name in ("valid.bin", "train.log"):
        (moved / name).write_text("other")
    assert position.changes(before, position.of(settings(str(moved)))) == []
    two = position.of(settings(f"{moved}{os.pathsep}{moved}"))
    assert position.changes(before, two) == ["dict.txt", "train.bin", "train.idx", "train.label"]


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"seed": 2}, "--seed 2 instead of 1"),
        ({"batch_size": 8}, "--batch-size 8 instead of 16"),
        ({"tokens_per_sample": 32}, "--tokens-per-sample 32 instead of 64"),
        ({"sample_break_mode": "eos"}, "--sample-break-mode eos instead of none"),
        ({"_name": "streaming_masked_lm"}, "--task streaming_masked_lm instead of masked_lm"),
    ],
)
def test_a_change_of_a_setting_is_named(data: Path, change: dict[str, Any], flag: str) -> None:
    before = position.of(settings(str(data)))
    assert position.changes(before, position.of(settings(str(data), **change))) == [flag]


@pytest.mark.parametrize("name", ["train.idx", "train.bin", "valid.idx", "valid.bin"])
@pytest.mark.parametrize("size", [0, -1])
def test_shortened_files_are_refused(tiny_data: Path, tmp_path: Path, name: str, size: int) -> None:
    for path in tiny_data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    position.refuse_damaged(settings(str(tmp_path)), "train,valid")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:size])
    with pytest.raises(UsageError, match=r"\.(idx|bin)"):
        position.refuse_damaged(settings(str(tmp_path)), "train,valid")
