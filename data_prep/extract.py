"""The stage `extract`: from files of any supported source to the Parquet files of a corpus."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from data_prep.config import READER_SETTINGS, SOURCES, ReadingConfig, SourceConfig
from data_prep.corpus import Document, write_files
from data_prep.sources import Piece, ReadErrors, books, doc, docstrings, images, jsonl, tables, text, wikipedia
from data_prep.sources.encodings import check_encoding
from data_prep.sources.files import expand, input_files, is_remote, is_stream, open_file, refuse_out_below
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest, write_text
from linformer_fairseq.io.records import begun, finish
from linformer_fairseq.io.shards import Done, Shard, run_shards

READERS: dict[str, ModuleType] = dict(
    zip(SOURCES, (wikipedia, doc, text, books, jsonl, tables, docstrings, images), strict=True)
)
# Small files are read together: a shard of work should take seconds, not milliseconds.
SHARD_BYTES = 8 << 20


def extract(config: SourceConfig, out: Path, reading: ReadingConfig, workers: int = 1) -> dict[str, Any]:
    """Read one source and write `out/<name>-NNNNN-NNN.parquet`; returns the record of the stage.

    Several sources may share one `out`; each has its own record `extract-<name>.json`, and the hashes of its input
    files in `extract-<name>.sha256`, which `sha256sum --check` reads.

    Inputs are files, folders or archives, wildcards expanded, also on storage that fsspec reads (`s3://…`, `gs://…`,
    `hf://…`); `-` is standard input. For `docstrings`, they are folders of Python packages, or nothing for all.
    """
    source, name = config.source, config.source if config.name is None else config.name
    if not re.fullmatch(r"\w[\w. -]*", name):
        raise UsageError(f"--name {name}: begins the names of files, so letters, digits, dots and - are allowed, not /")
    options = _reader_settings(config)
    if not config.inputs and source != "docstrings":
        raise UsageError(f"--source {source} needs at least one IN (`inputs`): a file, a folder or a tar archive")
    written = {".parquet", ".json"}  # in a corpus; a source without suffixes reads every file
    if source != "docstrings" and written & (READERS[source].SUFFIXES or written):
        refuse_out_below(config.inputs, out)
    problems = ReadErrors(reading.on_error == "skip")
    paths = _paths(config, problems)
    # Storage knows when a file has changed, so it is not read once more.
    hashed = [path for path in paths if not (is_stream(path) or is_remote(path) or config.source == "docstrings")]
    settings: dict[str, Any] = {
        "source": source,
        "text_column": config.text_column,
        **options,
        **vars(reading),
        # Docstrings are any text of this kind: one more installed package does not make the corpus stale.
        "inputs": [str(path) for path in config.inputs]
        if source == "docstrings"
        else [[path.name, "stream" if is_stream(path) else path.stat().st_size, *_version(path)] for path in paths],
    }
    record = out / f"extract-{name}.json"
    # What was read without an error is the same whatever an error would have led to.
    if finished := begun(record, settings, {"on_error"} if problems.skip else (), hashed):
        return finished
    full = [path for path in paths if is_stream(path) or path.is_dir() or path.stat().st_size]
    if empty := len(paths) - len(full):
        problems.left_out["empty files"] = empty
    shards = _shards(name, [READERS[source].pieces(path, **options) for path in full], hashed)
    function = partial(extract_shard, out=out, config=config, reading=reading)
    # A stream can be read in this process only.
    done = run_shards(out, shards, function, 0 if any(map(is_stream, paths)) else workers, f"extract {name}", unit="B")
    hashes = _write_hashes(hashed, shards, done, out / f"extract-{name}.sha256")
    results = [shard["result"] for shard in done.values()]
    skipped = problems.skipped + [line for result in results for line in result["skipped"]]
    for line in skipped[:10]:
        print(f"skipped: {line}")
    left_out = sum((Counter(result["left_out"]) for result in results), problems.left_out)
    kinds = {reason.removesuffix(" files"): n for reason, n in sorted(left_out.items()) if reason.endswith(" files")}
    if kinds:
        files = problems.files + sum(result.get("files", 0) for result in results)
        named = ", ".join(f"{kind} ({n:,})" if len(kinds) > 1 else kind for kind, n in kinds.items())
        print(f"{sum(kinds.values()):,} of {files:,} files left out: {named}")
    result: dict[str, Any] = {key: sum(result[key] for result in results) for key in ("documents", "characters")}
    if not result["documents"]:
        raise UsageError(f"--source {source}: no text found in {', '.join(map(str, config.inputs))}")
    result |= {"left_out": left_out, "skipped": skipped}
    return finish(record, settings, result, [*({**shard, "inputs": []} for shard in done.values()), hashes])


def extract_shard(group: Sequence[Piece], prefix: str, out: Path, config: SourceConfig, reading: ReadingConfig) -> Done:
    """Write the documents of some pieces of input."""
    problems = ReadErrors(reading.on_error == "skip")
    options = _reader_settings(config)

    def documents() -> Iterator[Document]:
        for piece in group:
            for document in READERS[config.source].documents(piece, problems, **options):
                if document.text:
                    yield document
                else:
                    problems.left_out["empty"] += 1

    counts, paths = write_files(documents(), out, prefix, reading.file_characters)
    result = {**counts, "left_out": problems.left_out, "skipped": problems.skipped, "files": problems.files}
    return Done(result, paths)


def _reader_settings(config: SourceConfig) -> dict[str, Any]:
    """The settings that were given for the reader of a source; raises UsageError if one is not for it, or wrong."""
    given = {name: getattr(config, name) for name in READER_SETTINGS if getattr(config, name) is not None}
    for name in given:
        flag = f"--{name.replace('_', '-')}"
        if config.source not in READER_SETTINGS[name]:
            others = ", ".join(READER_SETTINGS[name])
            raise UsageError(f"{flag}: --source {config.source} has no such setting; it is for {others}")
    check_encoding(config.encoding)
    return given


def _version(path: Any) -> list[str]:
    """What tells the content at an address from an earlier one."""
    return [str(path), path.fs.ukey(path.path)] if is_remote(path) else []


def _write_hashes(
    paths: Sequence[Path], shards: Sequence[Shard], done: Mapping[str, Mapping[str, Any]], target: Path
) -> Mapping[str, Any]:
    """Write the hashes of the input files, as `sha256sum` prints them; returns what `finish` takes."""
    entries = {p: entry for s in shards for p, entry in zip(s.inputs, done[s.name]["inputs"], strict=True)}
    lines = []
    for path in paths:
        escaped = str(path).replace("\\", "\\\\").replace("\n", "\\n")
        lines.append(f"{'' if escaped == str(path) else chr(92)}{entries[path][-1]}  {escaped}\n")
    write_text(target, "".join(lines))
    return {"files": {target.name: digest(target)}, "inputs": [entries[path] for path in paths], "seconds": 0}


def _paths(config: SourceConfig, problems: ReadErrors) -> list[Path]:
    """The input files that can be opened; for docstrings, folders."""
    expanded = [path for given in map(str, config.inputs) for path in expand(given, problems)]
    if config.source == "docstrings":
        for path in expanded:
            if not path.is_dir():
                raise UsageError(f"{path}: no such folder; --source docstrings reads folders of Python packages")
        return expanded or docstrings.installed_roots()
    paths: list[Path] = []
    for path in input_files(expanded, READERS[config.source].SUFFIXES, problems):
        try:
            if not is_stream(path):
                open_file(path).close()
            paths.append(path)
        except OSError as error:
            problems.report(str(path), f"cannot be opened ({error.strerror})")
    return paths


def _shards(name: str, files: Iterable[Sequence[Piece]], hashed: Sequence[Path]) -> list[Shard]:
    """Shards of about `SHARD_BYTES`, whose function gets some pieces and its name.

    A shard that reads a file whole hashes it, too, while it is in memory; for the others there are shards that do only
    that.
    """
    left = dict.fromkeys(hashed)
    groups: list[tuple[list[Piece], list[Path]]] = []
    size = 0
    for pieces in files:
        for piece in pieces:
            if not groups or size + piece.size > SHARD_BYTES:
                groups.append(([], []))
                size = 0
            groups[-1][0].append(piece)
            if len(pieces) == 1 and piece.path in left:
                del left[piece.path]
                groups[-1][1].append(piece.path)
            size += piece.size
    shards = []
    for number, (group, inputs) in enumerate(groups):
        label = f"{name}-{number:05d}"
        shards.append(Shard(label, (group, label), sum(piece.size for piece in group), inputs))
    for number, path in enumerate(left):
        label = f"{name}-sha256-{number:05d}"
        shards.append(Shard(label, ((), label), path.stat().st_size, [path]))
    return shards
