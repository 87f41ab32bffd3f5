"""Stage 1: from files of any supported source to Parquet shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.corpus import Document, write_shards
from data_prep.sources import docstrings
from data_prep.sources import text as sources
from data_prep.stage import DataPrepError, describe, fingerprint, finish, finished

READERS = {"doc": sources.doc_files, "books": sources.books, "text": sources.texts}
SOURCES = ("docstrings", *READERS)


def extract(source: str, inputs: Sequence[Path], out: Path, workers: int = 1) -> dict[str, Any]:
    """Reads ``inputs`` as ``source`` and writes ``out/<source>-NNNNN.parquet``.

    Several sources may share one ``out``; each keeps its own record ``extract-<source>.json``.

    Args:
        source: one of :data:`SOURCES`.
        inputs: files, folders or tar archives; for ``docstrings``, folders of Python packages, or nothing for
            everything that is installed in the running environment.
        out: folder of the corpus.
        workers: processes that parse ``docstrings``; reading the other sources takes one.

    Returns:
        Counts of documents, characters, shards and empty documents.
    """
    if source not in SOURCES:
        raise DataPrepError(f"--source {source}: unknown; choose one of {', '.join(SOURCES)}")
    if not inputs and source != "docstrings":
        raise DataPrepError(f"--source {source} needs at least one IN: a file, a folder or a tar archive")
    record = out / f"extract-{source}.json"
    # Installing one more package does not make a corpus of docstrings stale: it is any text of this kind.
    settings: dict[str, Any] = {"source": source, "inputs": [str(path) for path in inputs]}
    files: list[Path] = []
    if source != "docstrings":
        files = sources.input_files(inputs)
        settings["inputs"] = [[path.name, fingerprint(path)] for path in files]
    before = finished(record, settings)
    if before is not None:
        print(f"extract: already finished in {out}: {describe(before)}")
        return before

    empty: list[str] = []
    with tqdm(desc=f"extract {source}", unit="B", unit_scale=True) as bar:
        if source == "docstrings":
            roots = list(inputs) or docstrings.installed_roots()
            modules = [(root, path) for root in roots for path in docstrings.module_files(root)]
            bar.total = sum(path.stat().st_size for _, path in modules)
            documents = docstrings.documents(modules, workers, bar.update)
        else:
            bar.total = sum(path.stat().st_size for path in files)
            documents = READERS[source](files, bar.update)
        result: dict[str, Any] = {**write_shards(_not_empty(documents, empty), out, source)}
    result["empty_documents"] = len(empty)
    if not result["documents"]:
        raise DataPrepError(f"--source {source}: no text found in {', '.join(map(str, inputs))}")
    if source == "docstrings":
        result["packages"] = docstrings.installed_versions()
    finish(record, settings, result)
    print(f"extract: {describe(result)} in {out}")
    return result


def _not_empty(documents: Iterable[Document], empty: list[str]) -> Iterator[Document]:
    for document in documents:
        if document.text:
            yield document
        else:
            empty.append(document.id)
