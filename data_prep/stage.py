"""What all stages share: errors for the user, atomic files, and the record of what is finished."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

DAY = 86_400
_HOST = socket.gethostname().split(".")[0]
WORK = ".work"  # below a stage's output: claims and records of its shards, and what it needs only until it is finished


class DataPrepError(Exception):
    """Wrong input or wrong use; the message names the file or flag and the remedy."""


@contextmanager
def replace_when_done(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside ``path`` which becomes ``path`` only if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what killed processes left half written below ``folder``; other tasks may be writing there."""
    for path in folder.rglob(".*.partial"):
        host, process = path.name.split(".")[-3:-1]
        try:
            dead = not Path("/proc", process).exists() if host == _HOST else time.time() - path.stat().st_mtime > DAY
            if dead:
                path.unlink()
        except FileNotFoundError:
            pass  # finished meanwhile, or swept by another task


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


def begun(record: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Begins a stage, or goes on with it; the record's content if it is finished.

    Args:
        record: ``<stage>.json`` in the output folder, written by :func:`finish`.
        settings: all that the result depends on, the input included.

    Raises:
        DataPrepError: the folder holds the result, or unfinished work, of other settings or other input.
    """
    notes = record.parent / WORK / f"{record.stem}.settings"
    for path in (record, notes):
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            before, now = content["settings"], json.loads(json.dumps(settings))
            changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            if changed:
                raise DataPrepError(
                    f"{record.parent} holds the {'result' if path == record else 'unfinished work'} of other settings "
                    f"({', '.join(changed)} changed, see {path.name}); delete that folder or choose another --out"
                )
            if path == record:
                finished: dict[str, Any] = content
                print(f"{record.stem}: already finished in {record.parent}: {describe(finished['result'])}")
                return finished
    write_text(notes, json.dumps({"settings": settings}))
    return None


def finish(
    record: Path, settings: Mapping[str, Any], result: Mapping[str, Any], done: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Records that a stage is finished, prints its result, and returns the record's content.

    Args:
        record, settings: as for :func:`begun`.
        result: what the stage counted.
        done: what ``run_shards`` returned for each of its shards: their files and seconds are added up.
    """
    done = list(done)
    content = {
        "settings": settings,
        "result": result,
        "files": {name: digest for shard in done for name, digest in shard["files"].items()},
        "seconds": round(sum(shard["seconds"] for shard in done), 2),
    }
    sweep(record.parent)  # first: a stage with a record is not looked at again
    write_text(record, json.dumps(content, indent=1, sort_keys=True) + "\n")
    print(f"{record.stem}: {describe(result)} in {record.parent}")
    return content


def prepare_pool(module: str) -> None:
    """Starts the server that forks the workers of :func:`process_pool`, and returns while it imports ``module``."""
    # It imports once for all workers, and has no threads when it forks.
    multiprocessing.get_context("forkserver").set_forkserver_preload([module])
    forkserver.ensure_running()


@contextmanager
def process_pool(workers: int, module: str) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes have ``module`` imported; an error or Ctrl-C drops the work not yet begun."""
    prepare_pool(module)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"), _end_with_parent) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Inline(Executor):
    """Runs each call at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _end_with_parent() -> None:
    """Ends this worker when the process that gives it work is killed: nothing else would tell it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def describe(result: Mapping[str, Any]) -> str:
    """A result as words: ``1,234 documents, 5 shards``."""
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in result.items() if isinstance(value, int))
