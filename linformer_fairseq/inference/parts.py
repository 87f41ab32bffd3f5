"""The finished parts of an output, beside it until they are joined: what a killed command goes on from."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done, sweep, write_text

KEY = b"linformer_fairseq"  # of what the files' metadata says of themselves
GROUP_ROWS = 1 << 14  # rows of a row group of the output, or more

Counts = dict[str, int]


class Output:
    """An output file and the folder with its parts.

    Args:
        path: the Parquet file to be made.
        settings: all that its values depend on; plain values.
        force: start anew over the result, or the parts, of other settings.

    Raises:
        UsageError: one of those is there, and not `force`.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], force: bool) -> None:
        self.path = path
        self.settings = json.loads(json.dumps(settings))
        self.folder = path.with_name(f".{path.name}.parts")
        self.counts: Counts = {}
        self.finished = path.exists() and self._is_mine(_about(path).get("settings"), path, force)
        if self.finished:
            self.counts = _about(path)["counts"]

    @contextmanager
    def opened(self, force: bool) -> Iterator[None]:
        """Keeps other commands out of the folder of parts, which goes when the output is whole.

        Raises:
            UsageError: another command is writing them, they are of other settings, or cannot be written.
        """
        notes = self.folder / "settings.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UsageError(f"--out {self.path}: {error.strerror}; choose another place") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"--out {self.path}: another command is writing it; wait for that one, or choose another"
                ) from error
            if notes.exists() and not self._is_mine(json.loads(notes.read_text()), self.folder, force):
                for part in self.folder.glob("*.parquet"):
                    part.unlink()
            sweep(self.folder)
            write_text(notes, json.dumps(self.settings))
            yield
            if self.path.exists() and _about(self.path).get("settings") == self.settings:
                shutil.rmtree(self.folder)

    def rows(self) -> int:
        """Rows in the finished parts; those behind a part that is missing are removed."""
        rows = 0
        whole = True
        for number, path in enumerate(sorted(self.folder.glob("*.parquet"))):
            whole = whole and path == self._part(number)
            if whole:
                rows += pq.read_metadata(path).num_rows
            else:
                path.unlink()
        return rows

    def add(self, table: pa.Table, counts: Counts) -> None:
        """Writes the next part."""
        number = len(list(self.folder.glob("*.parquet")))
        table = table.replace_schema_metadata({KEY: json.dumps({"counts": counts})})
        with replace_when_done(self._part(number)) as partial:
            pq.write_table(table, partial, **_form(table.schema))

    def join(self) -> None:
        """Makes the output of all parts."""
        parts = sorted(self.folder.glob("*.parquet"))
        for part in parts:
            for name, count in _about(part)["counts"].items():
                self.counts[name] = self.counts.get(name, 0) + count
        about = {KEY: json.dumps({"settings": self.settings, "counts": self.counts})}
        schema = pq.read_schema(parts[0]).with_metadata(about)
        with replace_when_done(self.path, force=True) as temporary:
            with pq.ParquetWriter(temporary, schema, **_form(schema)) as writer:
                held: list[pa.Table] = []
                for part in parts:
                    held.append(pq.read_table(part).replace_schema_metadata(about))
                    if sum(table.num_rows for table in held) >= GROUP_ROWS or part == parts[-1]:
                        writer.write_table(pa.concat_tables(held))
                        held = []
            with temporary.open("rb") as file:
                os.fsync(file.fileno())

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:09}.parquet"

    def _is_mine(self, before: Any, where: Path, force: bool) -> bool:
        if before == self.settings:
            return True
        if force:
            return False
        if not isinstance(before, dict):
            raise UsageError(
                f"--out {where}: exists and was not made by encode.py; choose another, or replace it: --force"
            )
        changed = sorted(
            key for key in before.keys() | self.settings.keys() if before.get(key) != self.settings.get(key)
        )
        raise UsageError(
            f"--out {where}: holds the {'result' if where == self.path else 'unfinished work'} of other settings "
            f"({', '.join(changed)} changed); choose another --out, or start anew with --force"
        )


def _about(path: Path) -> dict[str, Any]:
    """What a file's metadata says; empty for a file that is no Parquet, or another's."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        about: dict[str, Any] = json.loads(metadata.get(KEY, b"{}"))
    except (pa.ArrowException, OSError, ValueError):
        return {}
    return about


def _form(schema: pa.Schema) -> dict[str, Any]:
    # Numbers of a vector are all different: a dictionary of them, or their extremes, would only take time.
    others = [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]
    return {"compression": "zstd", "compression_level": 1, "use_dictionary": others, "write_statistics": others}
