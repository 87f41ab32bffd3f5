"""Checkpoint files that are whole or absent, each with a checksum beside it that `sha256sum -c` reads.

A file is written under another name, brought to the disk, and renamed. The checksum of the file that it replaces goes
first and its own comes last, so a checksum is right or missing, whatever moment a kill hits.
"""

import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from linformer_fairseq.compat.checkpoints import load
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest, replace_when_done, sync


def checksum_file(path: Path) -> Path:
    """The file beside `path` that holds its checksum."""
    return path.with_name(path.name + ".sha256")


def write(content: Any, path: Path) -> None:
    """Write what `torch.save` can write, and its checksum; a full disk raises a UsageError and changes nothing."""
    with _replacing(path) as (partial, checksum), _HashedFile(partial, "w") as file:
        torch.save(content, file)
        checksum.append(file.sha256.hexdigest())


def copy(source: Path, target: Path, own: bool = False) -> None:
    """Make `target` the same file as `source`, or a copy of it where the file system has no hard links.

    With `own` it is a copy wherever there is room for one, so that a bad byte in one file leaves the other whole.
    """
    with _replacing(target) as (partial, checksum):
        checksum.append(recorded(source) or digest(source))
        first, second = (shutil.copyfile, os.link) if own else (os.link, shutil.copyfile)
        try:
            first(source, partial)
        except OSError:
            partial.unlink(missing_ok=True)
            second(source, partial)


def recorded(path: Path) -> str | None:
    """The checksum beside `path`, which may be that of a file that was there before; None if there is none."""
    try:
        words = checksum_file(path).read_text(errors="replace").split()
    except OSError:
        return None
    return words[0] if len(words) == 2 and re.fullmatch(r"[0-9a-f]{64}", words[0]) else None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None if it is whole.

    One that does not match its checksum was replaced, or is damaged: it is read through, since its parts have checksums
    too. No code that it may hold is run.
    """
    if path.stat().st_size == 0:
        return "it is empty"
    sha256 = recorded(path)
    if sha256 is not None:
        if digest(path) == sha256:
            return None
        if not zipfile.is_zipfile(path):
            return f"it does not match {checksum_file(path).name}"
    try:
        with path.open("rb") as file:
            content = load(file, map_location="cpu")
    except (UsageError, OSError) as error:
        return f"it cannot be read: {error}"
    whole = isinstance(content, dict) and {"model", "extra_state"} <= content.keys()
    return None if whole else "it is not a checkpoint of a training run"


def newest_whole(folder: Path, instead_of: Path) -> Path | None:
    """The checkpoint of `folder` with most updates that is whole and not, by another name, `instead_of`."""
    others = (path for path, _ in newest_first(folder) if not path.samefile(instead_of))
    return next((path for path in others if damage(path) is None), None)


def newest_first(folder: Path) -> list[tuple[Path, int]]:
    """The checkpoints of a folder by their updates, the latest first; the updates are -1 where a file tells none.

    Of copies with the same updates, a numbered one comes before those that a later save replaces.
    """
    replaced = ("checkpoint_last.pt", "checkpoint_best.pt")
    paths = [path for path in folder.glob("checkpoint*.pt") if path.is_file()]
    found = sorted(((updates_of(path), path.name not in replaced, path) for path in paths), reverse=True)
    return [(path, updates) for updates, _, path in found]


def updates_of(path: Path) -> int:
    """The number of updates in a checkpoint; -1 if it says nothing of them."""
    history = unread(path).get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    updates = last.get("num_updates") if isinstance(last, Mapping) else None
    return updates if isinstance(updates, int) else -1


def unread(path: Path) -> Mapping[str, Any]:
    """What a file holds, its tensors left on the disk until they are used; nothing of a damaged file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever is wrong with it, it is not the one to resume from
        return {}
    return content if isinstance(content, Mapping) else {}


def sweep(folder: Path) -> None:
    """Remove what killed writes have left behind, also of fairseq alone; no other process may be writing."""
    for path in [*folder.glob(".checkpoint*.partial"), *folder.glob("checkpoint*.pt.tmp")]:
        path.unlink(missing_ok=True)
    remove_lone_checksums(folder)


def remove_lone_checksums(folder: Path) -> None:
    """Remove checksums of checkpoints that are gone."""
    for path in folder.glob("checkpoint*.pt.sha256"):
        if not path.with_suffix("").exists():
            path.unlink(missing_ok=True)


class _HashedFile(FileIO):
    """Keeps the checksum of what is written. Nothing is buffered: a forked process would write a buffer once more."""

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        written = 0
        while written < len(view):
            written += super().write(view[written:])
        return written


@contextmanager
def _replacing(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A temporary name for a file that becomes `path` after the block, and a list for its checksum."""
    checksum: list[str] = []
    beside = checksum_file(path)
    try:
        with replace_when_done(path) as partial:
            yield partial, checksum
            sync(partial)
            beside.unlink(missing_ok=True)
            sync(path.parent)
        with replace_when_done(beside) as note:
            note.write_text(f"{checksum[0]}  {path.name}\n")
            sync(note)
        sync(path.parent)
    except (OSError, RuntimeError) as error:
        failure = error.__context__ if isinstance(error, RuntimeError) else error  # PyTorch raises one in its place
        if not isinstance(failure, OSError):
            raise
        remedy = "free some space" if failure.errno in (ENOSPC, EDQUOT) else "check that disk"
        raise UsageError(
            f"{path.parent}: {failure.strerror} while {path.name} was written; the earlier checkpoints are whole, so "
            f"{remedy} and start the same command again"
        ) from error
