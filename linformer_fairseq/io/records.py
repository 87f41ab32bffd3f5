"""What a folder was made with: its settings, result and files. Work with other settings is refused."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest, sweep, write_text

Inputs = list[list[Any]]  # size, time (ns) and SHA-256 of each file

always_hash = False
"""Whether every file is read again; otherwise only those whose time is not the recorded one (`--verify`)."""
_SEAL = "sha256 of the rest"
WORK = ".work"  # folder in the output: claims and records of shards, and files needed only until the work is finished


class StaleOutput(UsageError):
    """A folder holds work that does not fit the command; it must be deleted, or another one chosen."""


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ, compared as JSON: `before` was read from a file."""
    now = json.loads(json.dumps(now))
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


def read_record(path: Path) -> dict[str, Any] | None:
    """What `write_record` was given; None if there is no such file, or it is empty or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(content, dict) or content.pop(_SEAL, None) not in (None, _seal(content)):
        return None
    return content


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically, with a hash of the content, so that a damaged record is not believed."""
    content = json.loads(json.dumps(content))
    write_text(path, json.dumps({**content, _SEAL: _seal(content)}, indent=1, sort_keys=True) + "\n")


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stamp(path: Path) -> list[int]:
    """Size and time (ns) of a file."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def stamps(out: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """The stamp of each file below `out`, for its record."""
    return {name: stamp(out / name) for name in names}


def _unchanged(path: Path, recorded: Sequence[Any]) -> bool:
    """Whether a file has the size and SHA-256 recorded; read only if its time is another one, as after copying."""
    size, time, sha256 = recorded  # each None if it is not known
    size_now, time_now = stamp(path)
    if size not in (None, size_now):
        return False
    return sha256 is None or (time == time_now and not always_hash) or digest(path) == sha256


def intact(out: Path, content: Mapping[str, Any] | None) -> bool:
    """Whether the files of a record are those that were written: `files` has their hashes, `stamps` size and time."""
    if content is None:
        return False
    files, known = content.get("files", {}), content.get("stamps", {})
    try:
        return all(
            _unchanged(out / name, [*known.get(name, (None, None)), files.get(name)])
            for name in files.keys() | known.keys()
        )
    except FileNotFoundError:
        return False


def names_and_sizes(paths: Iterable[Path]) -> list[list[Any]]:
    """What tells input files from others in settings; `refuse_other_inputs` compares their content."""
    return [[path.name, path.stat().st_size] for path in paths]


def examined(paths: Sequence[Path]) -> Inputs:
    """Size, time (ns) and SHA-256 of input files, for the record of what was made of them."""
    return [[*stamp(path), digest(path)] for path in paths]


def refuse_other_inputs(out: Path, paths: Sequence[Path], content: Mapping[str, Any] | None, what: str) -> None:
    """Raise StaleOutput if files are not those that the work in a record has read; judged as by `intact`."""
    for path, before in zip(paths, (content or {}).get("inputs", ()), strict=False):
        if not _unchanged(path, before):
            raise StaleOutput(
                f"{out} holds the {what} of another {path}; restore that file, delete {out}, or choose another --out"
            )


def begun(
    record: Path, settings: Mapping[str, Any], ignored: Collection[str] = (), inputs: Sequence[Path] = ()
) -> dict[str, Any] | None:
    """Start or resume work in the folder of `record`; its content if the work is finished, else None.

    `record` is `<stage>.json` in the output folder, to be written by `finish`. `settings` are everything that the
    result depends on, in JSON's types, with the names and sizes of input files; those `ignored` may have changed.
    `inputs` are these files, in the order in which the shards have read them. StaleOutput if the folder holds work of
    other settings or inputs. Finished work of which a file was changed or removed is begun again.
    """
    out, stage = record.parent, record.stem

    def refuse_other_settings(path: Path, content: Mapping[str, Any], what: str) -> None:
        if changed := [name for name in changed_settings(content["settings"], settings) if name not in ignored]:
            raise StaleOutput(
                f"{out} holds the {what} of other settings ({', '.join(changed)} changed, see {path.name}); "
                "delete that folder or choose another --out"
            )

    if finished := read_record(record):
        refuse_other_settings(record, finished, "result")
        refuse_other_inputs(out, inputs, finished, "result")
        if intact(out, finished):
            print(f"{stage}: already finished in {out}: {describe(finished['result'])}")
            return finished
        print(f"{stage}: files in {out} were changed or removed since, and are made again")
    notes = out / WORK / f"{stage}.settings"
    if notes.exists():
        if (started := read_record(notes)) is None:
            raise UsageError(f"{notes} cannot be read, perhaps after a loss of power; delete {out} to start over")
        there = [*out.iterdir(), *notes.parent.iterdir()]
        if any(path != notes.parent and path.suffix != ".settings" for path in there):  # more than notes of settings
            refuse_other_settings(notes, started, "unfinished work")
    write_record(notes, {"settings": settings})
    return None


def finish(
    record: Path, settings: Mapping[str, Any], result: Mapping[str, Any], done: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Record that the work is finished, print its result, the counts of the whole, and return the record's content.

    `done` is what `run_shards` returned for each shard, whose files and seconds are added up; others as for `begun`.
    """
    done = list(done)
    files = {name: sha256 for shard in done for name, sha256 in shard["files"].items() if Path(name).parts[0] != WORK}
    recorded = {name: stamp for shard in done for name, stamp in shard.get("stamps", {}).items() if name in files}
    content: dict[str, Any] = {
        "settings": settings,
        "result": result,
        "files": files,
        "stamps": stamps(record.parent, files.keys() - recorded.keys()) | recorded,
        "inputs": [entry for shard in done for entry in shard.get("inputs", ())],
        "seconds": round(sum(shard["seconds"] for shard in done), 2),
    }
    sweep(record.parent)  # before the record exists: afterwards nobody looks at this folder again
    write_record(record, content)
    print(f"{record.stem}: {describe(result)} in {record.parent}")
    return dict(json.loads(json.dumps(content, sort_keys=True)))  # in the same order as when it is read again


def describe(result: Mapping[str, Any]) -> str:
    """The counts of a result in words: `1,234 documents, 5 shards`."""
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in result.items() if isinstance(value, int))
