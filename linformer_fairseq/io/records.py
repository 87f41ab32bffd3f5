"""The record of a finished stage: its settings, result and files, and a refusal where the settings have changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import sweep, write_text

WORK = ".work"  # below a stage's output: claims and records of its shards, and what it needs only until it is finished


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ once they have been through JSON."""
    now = json.loads(json.dumps(now))
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def begun(record: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Begins a stage, or goes on with it; the record's content if it is finished.

    Args:
        record: ``<stage>.json`` in the output folder, written by :func:`finish`.
        settings: all that the result depends on, the input included.

    Raises:
        UsageError: the folder holds the result, or unfinished work, of other settings or other input.
    """
    notes = record.parent / WORK / f"{record.stem}.settings"
    for path in (record, notes):
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            changed = changed_settings(content["settings"], settings)
            if changed:
                raise UsageError(
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


def describe(result: Mapping[str, Any]) -> str:
    """A result as words: ``1,234 documents, 5 shards``."""
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in result.items() if isinstance(value, int))
