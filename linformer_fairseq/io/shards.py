"""Resumable work shared by any number of processes and Slurm tasks, without a coordinator.

The work is a list of shards, the same list in every task. Everything goes through the output folder that the tasks
share. A task takes a shard by creating `.work/NAME.claim`. The shard is finished when `.work/NAME.json` exists, which
is written after the shard's files are on the disk; it is computed again if they are no longer those that were written.
So a kill at any moment loses only the shards being computed; tasks may join or leave at any time; and the shards of a
dead task are taken over by the others.

`data_prep/split.py` is a short example. In every task, `run_shards` returns all results, so that each can run the steps
that follow; these must write the same bytes in each.
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io import records
from linformer_fairseq.io.files import digest, sync
from linformer_fairseq.io.pool import executor
from linformer_fairseq.io.processes import alive, own_name
from linformer_fairseq.io.records import WORK

# A claim is renewed at this interval, and void if another task sees no renewal in five of them by its own watch: clocks
# of machines and file systems may differ. A dead process on this machine is detected at once.
HEARTBEAT_SECONDS = 15
POLL_SECONDS = 1.0

Result = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """One unit of work: the call `function(*arguments)`."""

    name: str  # unique in the output folder; a valid file name
    arguments: tuple[Any, ...]  # picklable; they must not depend on the machine or the number of processes
    size: int = 1  # of the work, in any unit, for the progress bar; large shards run first
    inputs: Sequence[Path] = ()  # files that it reads; once it is finished, other ones are refused


@dataclass(frozen=True)
class Done:
    """What the function of a shard returns: counts or other JSON values, and the files that it wrote below `out`."""

    result: Result
    files: Sequence[Path] = ()  # those in `out/.work` are not listed in the end


def run_shards(
    out: Path, shards: Sequence[Shard], function: Callable[..., Done], workers: int, label: str, unit: str = "shard"
) -> dict[str, Result]:
    """Call `function` for every unfinished shard, and wait until other tasks have finished theirs.

    Args:
        out: output folder, shared by all tasks; claims and records are in `out/.work`.
        shards: the same list in every task.
        function: at the top level of a module, or a `partial` of such. Called twice, it must write the same bytes.
        workers: processes of this task; 0 calls the function in this process, for example to keep a loaded model.
        label: text of the progress bar.
        unit: of `Shard.size`; `B` for bytes.

    Returns, for each shard in the given order, `result` and `files` (name below `out` -> SHA-256) of its `Done`, its
    `inputs` (see `records.examined`) and the `seconds` that it took. Raises StaleOutput if a file was changed that a
    finished shard has read, and whatever `function` raises; finished shards stay finished, claims are released.
    """
    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    unfinished = []
    for shard in shards:
        record = record_of(work, shard.name)
        there = record.exists()  # before it is read: another task may write it now
        content = records.read_record(record)
        if records.intact(out, content):
            records.refuse_other_inputs(out, shard.inputs, content, "unfinished work")
        else:
            unfinished.append(shard)
            if there:
                record.unlink(missing_ok=True)
    waiting = deque(sorted(unfinished, key=lambda shard: -shard.size))  # the small ones last: processes end together
    total, left = sum(s.size for s in shards), sum(s.size for s in waiting)
    bar = tqdm(total=total, initial=total - left, desc=label, unit=unit, unit_scale=unit == "B", disable=not waiting)
    module = getattr(function, "func", function).__module__
    with bar, Claims(work) as claims, executor(min(workers, max(1, len(waiting))), module) as (pool, most):
        running: dict[Future[tuple[Done, records.Inputs, float]], Shard] = {}
        while waiting or running:
            for _ in range(len(waiting)):
                if len(running) >= most:
                    break
                shard = waiting.popleft()
                if record_of(work, shard.name).exists():
                    bar.update(shard.size)
                elif claims.take(shard.name):
                    running[pool.submit(_timed, function, shard)] = shard
                else:  # claimed by another task: looked at again after all others
                    waiting.append(shard)
            if not running:
                time.sleep(POLL_SECONDS if waiting else 0)
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                shard, (done, inputs, seconds) = running.pop(future), future.result()
                for path in done.files:
                    sync(path)
                files = {str(path.relative_to(out)): digest(path) for path in done.files}
                made = {"result": done.result, "files": files, "stamps": records.stamps(out, files)}
                records.write_record(record_of(work, shard.name), made | {"inputs": inputs, "seconds": seconds})
                claims.drop(shard.name)
                bar.update(shard.size)
    done_now = {shard.name: records.read_record(record_of(work, shard.name)) for shard in shards}
    if lost := [name for name, content in done_now.items() if content is None]:
        raise UsageError(f"{work}: the record of {lost[0]} was lost or damaged meanwhile; start the same command again")
    return done_now  # type: ignore[return-value]


def record_of(work: Path, name: str) -> Path:
    """The file whose existence means that shard `name` is finished."""
    return work / f"{name}.json"


def _timed(function: Callable[..., Done], shard: Shard) -> tuple[Done, records.Inputs, float]:
    start, before = time.monotonic(), [records.stamp(path) for path in shard.inputs]
    done = function(*shard.arguments)
    inputs = records.examined(shard.inputs)
    if [[size, changed] for size, changed, _ in inputs] != before:
        raise UsageError(f"{shard.inputs[0].parent}: files were changed while they were read; start the command again")
    return done, inputs, round(time.monotonic() - start, 3)


class Claims:
    """The claims that this task holds on shards; a thread renews them until they are dropped."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._held: set[Path] = set()
        self._renewals: dict[Path, tuple[int, float]] = {}  # of others' claims: the last, and when it was seen
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        for path in self._held:
            path.unlink(missing_ok=True)

    def take(self, name: str) -> bool:
        """Claim a shard; True if nobody held it, or its holder is dead."""
        path = self._work / f"{name}.claim"
        if path.exists() and self._void(path):
            path.unlink(missing_ok=True)
        identity = json.dumps({"owner": own_name()})
        try:
            with path.open("x", encoding="utf-8") as claim:
                self._held.add(path)
                claim.write(identity)
        except FileExistsError:
            return False
        if record_of(self._work, name).exists():  # finished after this task looked for its record
            self.drop(name)
            return False
        return True

    def drop(self, name: str) -> None:
        """Release the claim on a shard."""
        path = self._work / f"{name}.claim"
        self._held.discard(path)
        path.unlink(missing_ok=True)

    def _void(self, path: Path) -> bool:
        try:
            claim = records.read_record(path) or {}  # empty while it is written, or after a loss of power
            renewed, now = path.stat().st_mtime_ns, time.monotonic()
        except FileNotFoundError:
            return True
        last, since = self._renewals.get(path, (None, now))
        if last != renewed:
            self._renewals[path] = renewed, (since := now)
        return alive(claim.get("owner", "")) is False or now - since > 5 * HEARTBEAT_SECONDS

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            for path in tuple(self._held):
                try:
                    os.utime(path)
                except FileNotFoundError:
                    pass  # dropped, or taken over while this task was suspended; both tasks write the same bytes
