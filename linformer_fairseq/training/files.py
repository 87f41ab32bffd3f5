"""Checkpoint files that are whole or not there, each with a checksum beside it in the form of `sha256sum -c`.

A file is written under another name, brought to the disk, and renamed. The checksum of what it replaces goes first and
its own comes last, so whatever moment a kill hits, a checksum never speaks of another content: it is right or missing.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from linformer_fairseq.errors import UsageError

CHECKPOINT = re.compile(r"checkpoint.*\.pt")
# Of killed writes: ours, and those of fairseq without this project.
_LEFTOVER = re.compile(r"\.checkpoint.*\.partial|checkpoint.*\.pt\.tmp")
_BLOCK = 1 << 20  # bytes


def checksum_file(path: Path) -> Path:
    """The file beside `path` that holds its checksum."""
    return path.with_name(path.name + ".sha256")


def write(content: Any, path: Path) -> None:
    """Writes what `torch.save` can write, and its checksum.

    Raises:
        UsageError: the disk is full or failed; the file of that name, if there is one, is the one of before.
    """
    with _partial(path) as temporary, temporary.open("wb", buffering=0) as raw:
        file = _HashedFile(raw)
        try:
            torch.save(content, file)  # type: ignore[arg-type]
        except Exception:
            if file.failure is not None:  # PyTorch reports something else in its place
                raise file.failure from None
            raise
        os.fsync(raw.fileno())
        _publish(temporary, path, file.sha256.hexdigest())


def copy(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`, or a copy of it where the file system has no hard links.

    Raises:
        UsageError: as `write`.
    """
    sha256 = recorded(source) or digest(source)
    with _partial(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            _sync(temporary)
        _publish(temporary, target, sha256)


def recorded(path: Path) -> str | None:
    """The checksum beside `path`; None if there is none, or `path` was replaced after it was written."""
    beside = checksum_file(path)
    try:
        words = beside.read_text(errors="replace").split()
        fresh = beside.stat().st_mtime_ns >= path.stat().st_mtime_ns
    except OSError:
        return None
    return words[0] if fresh and len(words) == 2 and re.fullmatch(r"[0-9a-f]{64}", words[0]) else None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path) -> None:
    """Removes what killed writes have left behind."""
    for path in list(folder.iterdir()):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
    remove_lone_checksums(folder)


def remove_lone_checksums(folder: Path) -> None:
    """Removes checksums of checkpoints that are gone."""
    for path in list(folder.glob("checkpoint*.pt.sha256")):
        if not path.with_suffix("").exists():
            path.unlink(missing_ok=True)


class _HashedFile:
    """Where `torch.save` writes to: keeps the checksum, and the error of the disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        written = 0
        try:
            while written < len(view):
                written += self.file.write(view[written:])
        except OSError as error:
            self.failure = error
            raise
        return written

    def flush(self) -> None:
        """Nothing is buffered: in a forked process, a buffer would be written a second time."""


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that is gone after the block."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space"
        else:
            remedy = "see to that disk"
        raise UsageError(
            f"{path.parent}: {error.strerror} while {path.name} was written; the checkpoints of before are whole, so "
            f"{remedy} and start the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path, sha256: str) -> None:
    beside = checksum_file(path)
    beside.unlink(missing_ok=True)
    _sync(path.parent)
    os.replace(temporary, path)
    with _partial(beside) as note:
        note.write_text(f"{sha256}  {path.name}\n")
        _sync(note)
        os.replace(note, beside)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Brings a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no fsync for folders
            raise
    finally:
        os.close(descriptor)
