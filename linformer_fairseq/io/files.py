"""Files and folders that are written atomically: whole under their name, or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError

DAY = 86_400
_HOST = socket.gethostname().split(".")[0]


@contextmanager
def replace_when_done(path: Path, force: bool = True) -> Iterator[Path]:
    """Give a temporary name beside `path`, for a file or a folder, which becomes `path` only if the block ends well.

    Raises:
        UsageError: `path` exists, and not `force`.
    """
    if not force and path.exists():
        raise UsageError(f"{path} exists; choose another target, or replace it with --force")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.partial")
    try:
        yield partial
        if partial.is_dir() and path.exists():
            replaced = path.with_name(f".{path.name}.replaced.{_HOST}.{os.getpid()}.partial")
            os.replace(path, replaced)
            os.replace(partial, path)
            remove(replaced)
        else:
            os.replace(partial, path)
    finally:
        remove(partial)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes have left half written below `folder`; others may be writing there."""
    for path in folder.rglob(".*.partial"):
        host, process = path.name.split(".")[-3:-1]
        try:
            dead = not Path("/proc", process).exists() if host == _HOST else time.time() - path.stat().st_mtime > DAY
            if dead:
                remove(path)
        except FileNotFoundError:
            pass  # finished meanwhile, or swept by another task


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with replace_when_done(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically; of what is not JSON, its text."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """Size and a hash of both ends: quick, and unlike a time stamp the same after copying."""
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(65536)
        file.seek(max(0, size - 65536))
        ends += file.read()
    return f"{size}-{hashlib.sha256(ends).hexdigest()[:16]}"
