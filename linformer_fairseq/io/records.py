"""What a folder was made with: its settings, result and files. Work with other settings is refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import sweep, write_text

WORK = ".work"  # folder in the output: claims and records of shards, and files needed only until the work is finished


class StaleOutput(UsageError):
    """A folder holds work that does not fit the command; it must be deleted, or another one chosen."""


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ, compared as JSON: `before` was read from a file."""
    now = json.loads(json.dumps(now))
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def begun(record: Path, settings: Mapping[str, Any], ignored: Collection[str] = ()) -> dict[str, Any] | None:
    """Start or resume work in the folder of `record`; its content if the work is finished, else None.

    `record` is `<stage>.json` in the output folder, to be written by `finish`. `settings` are everything that the
    result depends on, including the input, in JSON's types; those `ignored` may have changed. StaleOutput if the folder
    holds work of other settings, or not all that was made.
    """
    notes = record.parent / WORK / f"{record.stem}.settings"
    for path in (record, notes):
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name in changed_settings(content["settings"], settings) if name not in ignored]
            if changed and (path == record or _holds_work(record.parent)):
                raise StaleOutput(
                    f"{record.parent} holds the {'result' if path == record else 'unfinished work'} of other settings "
                    f"({', '.join(changed)} changed, see {path.name}); delete that folder or choose another --out"
                )
            if path == record:
                _check_sizes(record.parent, content.get("sizes", {}))
                finished: dict[str, Any] = content
                print(f"{record.stem}: already finished in {record.parent}: {describe(finished['result'])}")
                return finished
    write_text(notes, json.dumps({"settings": settings}))
    return None


def _holds_work(out: Path) -> bool:
    """Whether there is more in an output folder than notes of settings."""
    work = out / WORK
    return any(path != work for path in out.iterdir()) or any(path.suffix != ".settings" for path in work.iterdir())


def _check_sizes(out: Path, sizes: Mapping[str, int]) -> None:
    """Raise StaleOutput if a file is missing or has not as many bytes as when it was made."""
    for name, size in sizes.items():
        path = out / name
        found = path.stat().st_size if path.exists() else None
        if found != size:
            what = "is missing" if found is None else f"has {found:,} bytes, not {size:,} as when it was made"
            raise StaleOutput(f"{path} {what}; delete the folder {out} and run this command again")


def finish(
    record: Path, settings: Mapping[str, Any], result: Mapping[str, Any], done: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Record that the work is finished, print its result, the counts of the whole, and return the record's content.

    `done` is what `run_shards` returned for each shard, whose files and seconds are added up; others as for `begun`.
    """
    done = list(done)
    files = {name: digest for shard in done for name, digest in shard["files"].items()}
    content: dict[str, Any] = {
        "settings": settings,
        "result": result,
        "files": files,
        "sizes": {name: (record.parent / name).stat().st_size for name in files},
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
