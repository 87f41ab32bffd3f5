"""Checkpoint files: whole or not there, with a checksum that is right or missing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.errors import UsageError
from linformer_fairseq.training import files
from linformer_fairseq.training.files import damage, newest_whole


def content(value: float, rows: int = 500) -> dict[str, object]:
    return {"model": {"weight": torch.full((rows, 100), float(value))}, "extra_state": {}}


def whole(path: Path) -> float:
    """The value in a checkpoint that is whole."""
    assert damage(path) is None
    return float(torch.load(path)["model"]["weight"][0, 0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    files.write(content(1), tmp_path / "checkpoint_last.pt")
    return tmp_path / "checkpoint_last.pt"


def test_sha256sum_agrees(path: Path) -> None:
    files.copy(path, path.with_name("checkpoint_best.pt"))
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        checked = subprocess.run(["sha256sum", "-c", f"{name}.sha256"], cwd=path.parent, capture_output=True, text=True)
        assert checked.stdout == f"{name}: OK\n"
    assert sorted(os.listdir(path.parent)) == sorted(
        f"checkpoint_{name}.pt{suffix}" for name in ("best", "last") for suffix in ("", ".sha256")
    )


def test_a_copy_takes_no_space_and_replaces_what_was_there(path: Path) -> None:
    target = path.with_name("checkpoint_best.pt")
    files.write(content(2), target)
    for _ in range(2):  # the second time both are the same file already
        files.copy(path, target)
        assert whole(target) == 1 and target.samefile(path)
    assert not list(path.parent.glob(".*"))


def test_a_copy_of_its_own_survives_a_bad_byte_in_the_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = path.with_name("checkpoint_other.pt")
    files.copy(path, last, own=True)
    assert not last.samefile(path)
    flip(path)
    assert damage(path) and whole(last) == 1

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    files.copy(last, path, own=True)  # without room for a copy, it is the same file
    assert whole(path) == 1 and path.samefile(last)


def test_without_hard_links_it_is_copied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    files.copy(path, path.with_name("checkpoint_best.pt"))
    assert whole(path.with_name("checkpoint_best.pt")) == 1
    assert not path.with_name("checkpoint_best.pt").samefile(path)


@pytest.mark.parametrize("call", range(12))
@pytest.mark.parametrize("copying", [False, True], ids=["write", "copy"])
def test_stopped_anywhere_leaves_a_whole_file(
    path: Path, call: int, copying: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each call that changes the disk, a kill."""
    source = path.with_name("checkpoint_1_5.pt")
    files.write(content(2), source)
    count = 0

    def killing(function):  # type: ignore[no-untyped-def]
        def call_or_die(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            if count > call:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call_or_die

    for module, name in ((os, "fsync"), (os, "replace"), (os, "link"), (Path, "unlink"), (Path, "write_text")):
        monkeypatch.setattr(module, name, killing(getattr(module, name)))
    stopped = True
    try:
        files.copy(source, path) if copying else files.write(content(2), path)
        stopped = False
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    assert whole(path) in ((1, 2) if stopped else (2,))
    files.sweep(path.parent)
    assert not list(path.parent.glob(".*"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one bit": flip,
    "empty": lambda path: os.truncate(path, 0),
    "foreign": lambda path: path.write_text("hello"),
    "another's": lambda path: torch.save({"weight": torch.ones(3)}, path),
}


@pytest.mark.parametrize("checksum", [True, False], ids=["checksum", "no checksum"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_seen(path: Path, kind: str, checksum: bool) -> None:
    DAMAGES[kind](path)
    if checksum:
        os.utime(path, ns=(0, 0))  # as a disk would do it
    else:
        files.checksum_file(path).unlink()
    assert damage(path)


@pytest.mark.parametrize("way", [shutil.copy, shutil.copy2, os.link, os.replace], ids=["cp", "cp -p", "ln", "mv"])
def test_an_earlier_one_put_in_its_place_is_not_taken_for_damaged(path: Path, way: Callable[..., Any]) -> None:
    other = path.with_name("other.pt")
    torch.save(content(3), other)
    os.utime(other, ns=(1, 1))
    path.unlink()
    way(other, path)
    assert whole(path) == 3


def test_the_newest_whole_one(path: Path) -> None:
    """Updates count: times change when files are copied."""
    for update in (10, 4, 2):
        state = {**content(update), "optimizer_history": [{"num_updates": update}]}
        files.write(state, path.with_name(f"checkpoint_1_{update}.pt"))
    files.copy(path, path.with_name("checkpoint_best.pt"))
    flip(path)
    flip(path.with_name("checkpoint_1_10.pt"))
    found = newest_whole(path.parent, instead_of=path)
    assert found and found.name == "checkpoint_1_4.pt"


def test_sweeps_only_leftovers(path: Path) -> None:
    for name in (".checkpoint_last.pt.77.partial", "checkpoint_last.pt.tmp", "checkpoint_1_5.pt.sha256"):
        (path.parent / name).write_text("")
    kept = {"checkpoint_last.pt", "checkpoint_last.pt.sha256", "notes.tmp", ".mine.partial", "mine.sha256"}
    for name in kept - {"checkpoint_last.pt", "checkpoint_last.pt.sha256"}:
        (path.parent / name).write_text("")
    files.sweep(path.parent)
    assert set(os.listdir(path.parent)) == kept


def test_a_full_disk_leaves_the_old_one_whole(small_disk: Callable[[str], Path]) -> None:
    path = small_disk("4m") / "checkpoint_last.pt"
    files.write(content(1, rows=6000), path)  # 2.4 MB
    with pytest.raises(UsageError) as full:
        files.write(content(2, rows=6000), path)
    assert "No space left on device" in str(full.value) and str(path.parent) in str(full.value)
    assert whole(path) == 1 and files.recorded(path)
    assert not list(path.parent.glob(".*"))
