"""The stage `extract`: from files of any supported source to the Parquet files of a corpus."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from types import ModuleType
from typing import Any

from data_prep.config import SOURCES, ReadingConfig, SourceConfig
from data_prep.corpus import Document, write_files
from data_prep.sources import Piece, ReadErrors, books, doc, docstrings, jsonl, tables, text, wikipedia
from data_prep.sources.files import STDIN, input_files
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest, fingerprint, write_text
from linformer_fairseq.io.records import begun, finish
from linformer_fairseq.io.shards import Done, Shard, run_shards

_MODULES = (wikipedia, doc, text, books, jsonl, tables, docstrings)
READERS: dict[str, ModuleType] = dict(zip(SOURCES, _MODULES, strict=True))
WITH_COLUMNS = {"jsonl", "parquet"}
# Small files are read together: a shard of work should take seconds, not milliseconds.
SHARD_BYTES = 8 << 20


def extract(config: SourceConfig, out: Path, reading: ReadingConfig, workers: int = 1) -> dict[str, Any]:
    """Read one source and write `out/<name>-NNNNN-NNN.parquet`; returns the record of the stage.

    Several sources may share one `out`; each has its own record `extract-<name>.json`, and the hashes of its input
    files in `extract-<name>.sha256`, which `sha256sum --check` reads.

    Inputs are files, folders or archives, wildcards expanded; `-` is standard input. For `docstrings`, they are folders
    of Python packages, or nothing for all packages of the running environment.
    """
    source, name = config.source, config.name or config.source
    if source not in READERS:
        raise UsageError(f"--source {source}: unknown; choose one of {', '.join(READERS)}")
    if not re.fullmatch(r"\w[\w. -]*", name):
        raise UsageError(f"--name {name}: begins the names of files, so letters, digits, dots and - are allowed, not /")
    if config.text_column is not None and source not in WITH_COLUMNS:
        raise UsageError(f"--text-column: --source {source} has no columns; it is for jsonl and parquet")
    if reading.on_error not in ("stop", "skip"):
        raise UsageError(f"--on-error {reading.on_error}: must be stop or skip")
    if not config.inputs and source != "docstrings":
        raise UsageError(f"--source {source} needs at least one IN: a file, a folder or a tar archive")
    problems = ReadErrors(reading.on_error == "skip")
    paths = _paths(config, problems)
    settings: dict[str, Any] = {
        "source": source,
        "text_column": config.text_column,
        **vars(reading),
        # Docstrings are any text of this kind: one more installed package does not make the corpus stale.
        "inputs": [str(path) for path in config.inputs]
        if source == "docstrings"
        else [[path.name, "stdin" if path == STDIN else fingerprint(path)] for path in paths],
    }
    record = out / f"extract-{name}.json"
    if finished := begun(record, settings):
        return finished
    shards = _shards(name, (piece for path in paths for piece in READERS[source].pieces(path)))
    function = partial(extract_shard, out=out, config=config, reading=reading)
    # Standard input can be read in this process only.
    done = run_shards(out, shards, function, 0 if STDIN in paths else workers, f"extract {name}", unit="B")
    hashed = {} if source == "docstrings" else _hash_inputs(paths, out, name, workers)
    results = [shard["result"] for shard in done.values()]
    skipped = problems.skipped + [line for result in results for line in result["skipped"]]
    for line in skipped[:10]:
        print(f"skipped: {line}")
    result: dict[str, Any] = {key: sum(result[key] for result in results) for key in ("documents", "characters")}
    if not result["documents"]:
        raise UsageError(f"--source {source}: no text found in {', '.join(map(str, config.inputs))}")
    result["left_out"] = sum((Counter(result["left_out"]) for result in results), problems.left_out)
    result["skipped"] = skipped
    return finish(record, settings, result, [*done.values(), {"files": hashed, "seconds": 0}])


def extract_shard(group: Sequence[Piece], prefix: str, out: Path, config: SourceConfig, reading: ReadingConfig) -> Done:
    """Write the documents of some pieces of input."""
    problems = ReadErrors(reading.on_error == "skip")
    columns = {"text_column": config.text_column} if config.source in WITH_COLUMNS else {}

    def documents() -> Iterator[Document]:
        for piece in group:
            for document in READERS[config.source].documents(piece, problems, **columns):
                if document.text:
                    yield document
                else:
                    problems.left_out["empty"] += 1

    counts, paths = write_files(documents(), out, prefix, reading.file_characters)
    return Done({**counts, "left_out": problems.left_out, "skipped": problems.skipped}, paths)


def _hash_inputs(paths: Sequence[Path], out: Path, name: str, workers: int) -> dict[str, str]:
    """Write the hashes of the input files; returns the name and the hash of that file."""
    shards = _shards(f"{name}-sha256", (Piece(path, path.stat().st_size) for path in paths if path != STDIN))
    hashes = run_shards(out, shards, hash_files, workers, f"extract {name}: hashes", unit="B")
    target = out / f"extract-{name}.sha256"
    write_text(target, "".join(f"{line}\n" for shard in hashes.values() for line in shard["result"]["lines"]))
    return {target.name: digest(target)}


def hash_files(pieces: Sequence[Piece], _: str) -> Done:
    """A line per file, as `sha256sum` prints it."""
    return Done({"lines": [f"{digest(piece.path)}  {piece.path}" for piece in pieces]})


def _paths(config: SourceConfig, problems: ReadErrors) -> list[Path]:
    expanded: list[Path] = []
    for given in map(str, config.inputs):
        found = sorted(glob(given)) if any(mark in given for mark in "*?[") else [given]
        if not found:
            raise UsageError(f"{given}: no file matches")
        expanded += map(Path, found)
    if config.source == "docstrings":
        return expanded or docstrings.installed_roots()
    return input_files(expanded, READERS[config.source].SUFFIXES, problems)


def _shards(name: str, pieces: Iterable[Piece]) -> list[Shard]:
    """Shards of about `SHARD_BYTES`, whose function gets some pieces and the name of the shard."""
    groups: list[list[Piece]] = []
    size = 0
    for piece in pieces:
        if not groups or size + piece.size > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.size
    names = [f"{name}-{number:05d}" for number in range(len(groups))]
    return [Shard(n, (group, n), sum(p.size for p in group)) for n, group in zip(names, groups, strict=True)]
