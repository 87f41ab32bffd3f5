"""Stage 1: from files of any supported source to the Parquet files of a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from glob import glob
from pathlib import Path
from types import ModuleType
from typing import Any

from data_prep.corpus import FILE_CHARACTERS, Document, write_files
from data_prep.problems import Problems
from data_prep.sources import Piece, books, doc, docstrings, files, jsonl, tables, text, wikipedia
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest, fingerprint, write_text
from linformer_fairseq.io.records import begun, finish
from linformer_fairseq.io.shards import Done, Shard, run_shards

READERS: dict[str, ModuleType] = {
    "wikipedia": wikipedia,
    "doc": doc,
    "text": text,
    "books": books,
    "jsonl": jsonl,
    "parquet": tables,
    "docstrings": docstrings,
}
WITH_COLUMNS = {"jsonl", "parquet"}
# Small files are read together: a shard of work should take seconds, not milliseconds.
SHARD_BYTES = 8 << 20


def extract(
    source: str,
    inputs: Sequence[str | Path],
    out: Path,
    *,
    name: str | None = None,
    text_column: str | None = None,
    on_error: str = "stop",
    file_characters: int = FILE_CHARACTERS,
    workers: int = 1,
) -> dict[str, Any]:
    """Reads ``inputs`` as ``source`` and writes ``out/<name>-NNNNN-NNN.parquet``.

    Several sources may share one ``out``; each has its own record ``extract-<name>.json``, and the hashes of its
    input files in ``extract-<name>.sha256``, which ``sha256sum --check`` reads.

    Args:
        source: one of :data:`READERS`.
        inputs: files, folders or archives, wildcards expanded; ``-`` is standard input. For ``docstrings``, folders
            of Python packages, or nothing for everything that is installed in the running environment.
        out: folder of the corpus.
        name: begins the names of the files; by default the source.
        text_column: of ``jsonl`` and ``parquet``.
        on_error: ``stop`` at input that cannot be read, or ``skip`` it, counted and listed.
        file_characters: in one file.
        workers: processes.

    Returns:
        The stage's record.
    """
    reader = _reader(source)
    name = name or source
    if text_column is not None and source not in WITH_COLUMNS:
        raise UsageError(f"--text-column: --source {source} has no columns; it is for jsonl and parquet")
    if on_error not in ("stop", "skip"):
        raise UsageError(f"--on-error {on_error}: must be stop or skip")
    if not inputs and source != "docstrings":
        raise UsageError(f"--source {source} needs at least one IN: a file, a folder or a tar archive")
    problems = Problems(on_error == "skip")
    paths = _paths(source, inputs, reader, problems)
    settings: dict[str, Any] = {
        "source": source,
        "text_column": text_column,
        "on_error": on_error,
        "file_characters": file_characters,
        # One more installed package does not make a corpus of docstrings stale: it is any text of this kind.
        "inputs": [str(path) for path in inputs]
        if source == "docstrings"
        else [[path.name, "stdin" if path == files.STDIN else fingerprint(path)] for path in paths],
    }
    record = out / f"extract-{name}.json"
    before = begun(record, settings)
    if before is not None:
        return before
    groups = _groups(piece for path in paths for piece in reader.pieces(path))
    shards = [
        Shard(
            f"{name}-{number:05d}",
            (source, group, out, f"{name}-{number:05d}", text_column, on_error == "skip", file_characters),
            sum(piece.size for piece in group),
        )
        for number, group in enumerate(groups)
    ]
    # Standard input can be read in this process only.
    call: Callable[..., Done] = extract_shard
    done = run_shards(out, shards, call, 0 if files.STDIN in paths else workers, f"extract {name}", unit="B")
    hashed = _hash_inputs(paths, out, name, workers) if source != "docstrings" else []
    result = _result(done.values(), problems)
    if not result["documents"]:
        raise UsageError(f"--source {source}: no text found in {', '.join(map(str, inputs))}")
    return finish(record, settings, result, [*done.values(), *hashed])


def extract_shard(
    source: str,
    group: Sequence[Piece],
    out: Path,
    prefix: str,
    text_column: str | None,
    skip: bool,
    file_characters: int,
) -> Done:
    """Writes the documents of some pieces."""
    problems = Problems(skip)
    columns = {"text_column": text_column} if source in WITH_COLUMNS else {}
    read = _reader(source).documents
    documents = (document for piece in group for document in read(piece, problems, **columns))
    counts, paths = write_files(_not_empty(documents, problems), out, prefix, file_characters)
    result = {**vars(counts), "left_out": problems.left_out, "skipped": problems.skipped}
    return Done(result, paths)


def _hash_inputs(paths: Sequence[Path], out: Path, name: str, workers: int) -> list[dict[str, Any]]:
    """Writes the hashes of the input files; the shards' records."""
    found = [path for path in paths if path != files.STDIN]
    groups = list(_groups(Piece(path, path.stat().st_size) for path in found))
    shards = [
        Shard(f"{name}-sha256-{number:05d}", ([piece.path for piece in group],), sum(piece.size for piece in group))
        for number, group in enumerate(groups)
    ]
    hashes = run_shards(out, shards, hash_files, workers, f"extract {name}: hashes", unit="B")
    target = out / f"extract-{name}.sha256"
    lines = Shard(
        f"{name}-sha256", (target, [line for record in hashes.values() for line in record["result"]["lines"]])
    )
    return list(run_shards(out, [lines], write_lines, 0, f"extract {name}: hashes").values())


def hash_files(paths: Sequence[Path]) -> Done:
    """A line per file, as ``sha256sum`` prints it."""
    return Done({"lines": [f"{digest(path)}  {path}" for path in paths]})


def write_lines(path: Path, lines: Sequence[str]) -> Done:
    """Writes a small text file."""
    write_text(path, "".join(f"{line}\n" for line in lines))
    return Done({}, [path])


def _reader(source: str) -> ModuleType:
    if source not in READERS:
        raise UsageError(f"--source {source}: unknown; choose one of {', '.join(READERS)}")
    return READERS[source]


def _paths(source: str, inputs: Sequence[str | Path], reader: ModuleType, problems: Problems) -> list[Path]:
    expanded: list[Path] = []
    for given in map(str, inputs):
        found = sorted(glob(given)) if any(mark in given for mark in "*?[") else [given]
        if not found:
            raise UsageError(f"{given}: no file matches")
        expanded += map(Path, found)
    if source == "docstrings":
        return expanded or docstrings.installed_roots()
    return files.input_files(expanded, reader.SUFFIXES, problems)


def _groups(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        if group and size + piece.size > SHARD_BYTES:
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.size
    if group:
        yield group


def _not_empty(documents: Iterable[Document], problems: Problems) -> Iterator[Document]:
    for document in documents:
        if document.text:
            yield document
        else:
            problems.left_out["empty"] += 1


def _result(done: Iterable[dict[str, Any]], problems: Problems) -> dict[str, Any]:
    results = [shard["result"] for shard in done]
    left_out, skipped = Counter(problems.left_out), list(problems.skipped)
    for result in results:
        left_out.update(result["left_out"])
        skipped += result["skipped"]
    for line in skipped[:10]:
        print(f"skipped: {line}")
    return {
        "documents": sum(result["documents"] for result in results),
        "characters": sum(result["characters"] for result in results),
        "left_out": dict(sorted(left_out.items())),
        "skipped": skipped,
    }
