"""Files and folders that are written atomically, and hashes of files."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.processes import alive, own_name

DAY = 86_400


@contextmanager
def replace_when_done(path: Path, force: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file or folder written there is renamed to `path` on success.

    UsageError as of `check_target`.
    """
    check_target(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{own_name()}.partial")
    try:
        yield partial
        replaced = path.with_name(f".{path.name}.replaced.{own_name()}.partial")
        if partial.is_dir() and path.exists():
            os.replace(path, replaced)
        os.replace(partial, path)
        remove(replaced)
    finally:
        remove(partial)


def check_target(path: Path, force: bool) -> None:
    """UsageError if `path` exists and `force` is false, or a file stands where its folder would be."""
    if not force and path.exists():
        raise UsageError(f"{path} exists; choose another target, or replace it with --force")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """UsageError if there is a file in the place of an output folder, or of one above it, and for an address."""
    if re.match(r"\w[\w+.-]+:/", str(folder)):
        raise UsageError(
            f"{folder}: output goes to a folder of this machine; choose one, and `linformer prepare upload` it later"
        )
    found = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    if not found.is_dir():
        raise UsageError(f"{folder}: cannot be a folder, since {found} is a file; choose another one")


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove partial files that killed processes left below `folder`; those of running processes stay."""
    for path in folder.rglob(".*.partial"):
        running = alive(".".join(path.name.split(".")[-3:-1]))
        try:
            if running is False or (running is None and time.time() - path.stat().st_mtime > DAY):
                remove(path)
        except FileNotFoundError:
            pass  # meanwhile finished, or removed by another task


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically; the names of files in it may be no UTF-8."""
    with replace_when_done(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically; values that JSON does not know are written as text."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != EINVAL:  # some network file systems have no fsync for folders
            raise
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path, parts: int = 256, width: int = 1 << 16) -> str:
    """SHA-256 of size and content, unchanged by copying; of a file above 16 MiB, of evenly spread parts alone."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with path.open("rb", buffering=0) as file:
        if size <= parts * width:
            found.update(file.read())
        else:
            for number in range(parts):
                found.update(os.pread(file.fileno(), width, number * (size - width) // (parts - 1)))
    return found.hexdigest()
