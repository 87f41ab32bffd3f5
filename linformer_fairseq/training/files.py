"""Checkpoint files that are whole or absent, each with a checksum beside it that `sha256sum -c` reads.

A file is written under another name, brought to the disk, and renamed. The checksum of the file that it replaces goes
first and its own comes last, so a checksum is right or missing, whatever moment a kill hits.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, EINVAL, ENOSPC
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from linformer_fairseq.compat.checkpoints import load
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest, replace_when_done

_CHECKPOINT = re.compile(r"checkpoint.*\.pt")
# Of killed writes: ours, and those of fairseq without this project.
_LEFTOVER = re.compile(r"\.checkpoint.*\.partial|checkpoint.*\.pt\.tmp")


def checksum_file(path: Path) -> Path:
    """The file beside `path` that holds its checksum."""
    return path.with_name(path.name + ".sha256")


def write(content: Any, path: Path) -> None:
    """Write what `torch.save` can write, and its checksum; a full disk raises a UsageError and changes nothing."""
    with _replacing(path) as (partial, checksum), _HashedFile(partial, "w") as file:
        try:
            torch.save(content, file)
        except Exception:
            if file.failure is not None:  # PyTorch raises something else in its place
                raise file.failure from None
            raise
        checksum.append(file.sha256.hexdigest())


def copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it where the file system has no hard links."""
    with _replacing(target) as (partial, checksum):
        checksum.append(recorded(source) or digest(source))
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def recorded(path: Path) -> str | None:
    """The checksum beside `path`; None if there is none, or `path` was replaced after it was written."""
    beside = checksum_file(path)
    try:
        words = beside.read_text(errors="replace").split()
        fresh = beside.stat().st_mtime_ns >= path.stat().st_mtime_ns
    except OSError:
        return None
    return words[0] if fresh and len(words) == 2 and re.fullmatch(r"[0-9a-f]{64}", words[0]) else None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None if it is whole.

    A file without a checksum is read through: its parts have checksums too. No code that it may hold is run.
    """
    if path.stat().st_size == 0:
        return "it is empty"
    sha256 = recorded(path)
    if sha256 is not None:
        return None if digest(path) == sha256 else f"it does not match {checksum_file(path).name}"
    try:
        with path.open("rb") as file:
            content = load(file, map_location="cpu")
    except (UsageError, OSError) as error:
        return f"it cannot be read: {error}"
    whole = isinstance(content, dict) and {"model", "extra_state"} <= content.keys()
    return None if whole else "it is not a checkpoint of a training run"


def newest_whole(folder: Path, instead_of: Path) -> Path | None:
    """The newest checkpoint of `folder` that is whole and not, by another name, `instead_of`."""
    paths = [path for path in folder.iterdir() if _CHECKPOINT.fullmatch(path.name) and path.is_file()]
    paths.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return next((path for path in paths if not path.samefile(instead_of) and damage(path) is None), None)


def sweep(folder: Path) -> None:
    """Remove what killed writes have left behind; no other process may be writing."""
    for path in list(folder.iterdir()):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
    remove_lone_checksums(folder)


def remove_lone_checksums(folder: Path) -> None:
    """Remove checksums of checkpoints that are gone."""
    for path in folder.glob("checkpoint*.pt.sha256"):
        if not path.with_suffix("").exists():
            path.unlink(missing_ok=True)


class _HashedFile(FileIO):
    """Keeps the checksum of what is written, and the error of the disk.

    Nothing is buffered: a forked process would write a buffer a second time.
    """

    failure: OSError | None = None

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        written = 0
        try:
            while written < len(view):
                written += super().write(view[written:])
        except OSError as error:
            self.failure = error
            raise
        return written


@contextmanager
def _replacing(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A temporary name for a file that becomes `path` after the block, and a list for its checksum."""
    checksum: list[str] = []
    beside = checksum_file(path)
    try:
        with replace_when_done(path) as partial:
            yield partial, checksum
            _sync(partial)
            beside.unlink(missing_ok=True)
            _sync(path.parent)
        with replace_when_done(beside) as note:
            note.write_text(f"{checksum[0]}  {path.name}\n")
            _sync(note)
        _sync(path.parent)
    except OSError as error:
        remedy = "free some space" if error.errno in (ENOSPC, EDQUOT) else "check that disk"
        raise UsageError(
            f"{path.parent}: {error.strerror} while {path.name} was written; the earlier checkpoints are whole, so "
            f"{remedy} and start the same command again"
        ) from error


def _sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != EINVAL:  # some network file systems have no fsync for folders
            raise
    finally:
        os.close(descriptor)
