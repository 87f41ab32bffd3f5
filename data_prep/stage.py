"""What all stages share: errors for the user, atomic files, and the record of what is finished."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class DataPrepError(Exception):
    """Wrong input or wrong use; the message names the file or flag and the remedy."""


@contextmanager
def replace_when_done(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside ``path`` which becomes ``path`` only if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a small text file atomically."""
    with replace_when_done(path) as partial:
        partial.write_text(text, encoding="utf-8")


def fingerprint(path: Path) -> str:
    """Size and a hash of both ends: quick, and unlike a time stamp the same after copying."""
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(65536)
        file.seek(max(0, size - 65536))
        ends += file.read()
    return f"{size}-{hashlib.sha256(ends).hexdigest()[:16]}"


def finished(record: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result that ``record`` holds, or None if that stage has not finished yet.

    Raises:
        DataPrepError: the stage was finished with other settings or other input.
    """
    if not record.exists():
        return None
    content = json.loads(record.read_text(encoding="utf-8"))
    before, now = content["settings"], json.loads(json.dumps(settings))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise DataPrepError(
            f"{record.parent} holds the result of other settings ({', '.join(changed)} changed, "
            f"see {record.name}); delete it or choose another --out"
        )
    result: dict[str, Any] = content["result"]
    return result


def finish(record: Path, settings: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Records that a stage is finished: with which settings, and what it made."""
    write_text(record, json.dumps({"settings": settings, "result": result}, indent=1, sort_keys=True) + "\n")


@contextmanager
def process_pool(workers: int, module: str) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes have ``module`` imported; an error or Ctrl-C drops the work not yet begun."""
    # The fork server imports the module once for all workers, and has no threads when it forks.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    with ProcessPoolExecutor(workers, context) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def describe(result: Mapping[str, Any]) -> str:
    """A result as words: ``1,234 documents, 5 shards``."""
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in result.items() if isinstance(value, int))
