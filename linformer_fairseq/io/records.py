"""What a folder was made with: its settings, result and files. Work with other settings is refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest, sweep, write_text

always_hash = False
"""Whether `intact` reads every file; otherwise only those whose time is not the recorded one (`--verify`)."""
WORK = ".work"  # folder in the output: claims and records of shards, and files needed only until the work is finished


class StaleOutput(UsageError):
    """A folder holds work that does not fit the command; it must be deleted, or another one chosen."""


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ, compared as JSON: `before` was read from a file."""
    now = json.loads(json.dumps(now))
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def read_record(path: Path) -> dict[str, Any] | None:
    """The content of a record; None if there is none, or a loss of power has left it empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def stamps(out: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Size and time (ns) of each file below `out`, for its record."""
    found = {name: (out / name).stat() for name in names}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}


def intact(out: Path, content: Mapping[str, Any] | None) -> bool:
    """Whether the files of a record are those that were written.

    `files` has their hashes, but for those in `WORK`, and `stamps` size and time. A file of another size is another
    one; if it has another time, as after copying, or with `always_hash`, its hash decides.
    """
    if content is None:
        return False
    for name in content.get("files", {}).keys() | content.get("stamps", {}).keys():
        path, sha256 = out / name, content.get("files", {}).get(name)
        try:
            size, time = stamps(out, [name])[name]
        except FileNotFoundError:
            return False
        before = content.get("stamps", {}).get(name, [size, None])
        if size != before[0] or (sha256 and (always_hash or time != before[1]) and digest(path) != sha256):
            return False
    return True


def begun(record: Path, settings: Mapping[str, Any], ignored: Collection[str] = ()) -> dict[str, Any] | None:
    """Start or resume work in the folder of `record`; its content if the work is finished, else None.

    `record` is `<stage>.json` in the output folder, to be written by `finish`. `settings` are everything that the
    result depends on, including the input, in JSON's types; those `ignored` may have changed. StaleOutput if the folder
    holds work of other settings. Finished work of which a file was changed or removed is begun again.
    """
    notes = record.parent / WORK / f"{record.stem}.settings"
    for path in (record, notes):
        content = read_record(path)
        if content is None and path == notes and path.exists():
            lost = "cannot be read, perhaps after a loss of power"
            raise UsageError(f"{path} {lost}; delete {record.parent} to start over")
        if content is not None:
            changed = [name for name in changed_settings(content["settings"], settings) if name not in ignored]
            if changed and (path == record or _holds_work(record.parent)):
                raise StaleOutput(
                    f"{record.parent} holds the {'result' if path == record else 'unfinished work'} of other settings "
                    f"({', '.join(changed)} changed, see {path.name}); delete that folder or choose another --out"
                )
            if path == record and not intact(record.parent, content):
                print(f"{record.stem}: files in {record.parent} were changed or removed since, and are made again")
            elif path == record:
                finished: dict[str, Any] = content
                print(f"{record.stem}: already finished in {record.parent}: {describe(finished['result'])}")
                return finished
    write_text(notes, json.dumps({"settings": settings}))
    return None


def _holds_work(out: Path) -> bool:
    """Whether there is more in an output folder than notes of settings."""
    work = out / WORK
    return any(path != work for path in out.iterdir()) or any(path.suffix != ".settings" for path in work.iterdir())


def finish(
    record: Path, settings: Mapping[str, Any], result: Mapping[str, Any], done: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Record that the work is finished, print its result, the counts of the whole, and return the record's content.

    `done` is what `run_shards` returned for each shard, whose files and seconds are added up; others as for `begun`.
    """
    done = list(done)
    files = {name: sha256 for shard in done for name, sha256 in shard["files"].items()}
    recorded = {name: stamp for shard in done for name, stamp in shard.get("stamps", {}).items() if name in files}
    content: dict[str, Any] = {
        "settings": settings,
        "result": result,
        "files": files,
        "stamps": stamps(record.parent, files.keys() - recorded.keys()) | recorded,
        "seconds": round(sum(shard["seconds"] for shard in done), 2),
    }
    sweep(record.parent)  # before the record exists: afterwards nobody looks at this folder again
    text = json.dumps(content, indent=1, sort_keys=True)
    write_text(record, f"{text}\n")
    print(f"{record.stem}: {describe(result)} in {record.parent}")
    content = json.loads(text)  # the same, in the same order, as when it is read again
    return content


def describe(result: Mapping[str, Any]) -> str:
    """The counts of a result in words: `1,234 documents, 5 shards`."""
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in result.items() if isinstance(value, int))
