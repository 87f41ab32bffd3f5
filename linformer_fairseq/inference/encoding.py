"""Documents to a Parquet file of vectors or predictions, a window of rows at a time, shared by many processes.

The windows are the shards of `io/shards.py`. Each becomes a Parquet file in a hidden folder beside the output; when all
are there, one process joins them and removes the folder.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.special import softmax
from tqdm import tqdm

from linformer_fairseq.checkpoints.checkpoint import encoder_config
from linformer_fairseq.checkpoints.safe_file import read_any
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.batches import Order
from linformer_fairseq.inference.documents import Documents, RowReader, cut_windows, texts_of
from linformer_fairseq.inference.engine import Compute, Engine, Values, of_rows
from linformer_fairseq.inference.predict import HEAD, labels_of
from linformer_fairseq.inference.sequences import Sequences, encode, tokenizer_of
from linformer_fairseq.io.files import remove, replace_when_done
from linformer_fairseq.io.records import begun, changed_settings
from linformer_fairseq.io.shards import Done, Shard, run_shards

KEY = b"linformer_fairseq"  # of the settings and counts in the output's metadata
GROUP_ROWS = 1 << 14  # of a row group of the output, at least

Span = tuple[int, int]  # first row, and the one after the last


@dataclass(frozen=True)
class EncodingJob:
    """What is computed of which documents.

    Attributes:
        checkpoint: any of this project.
        data: folder of its tokenizer; None for the one that it was trained with.
        documents: the input.
        predict: labels or scores of a fine-tuned checkpoint, instead of vectors.
        pooling: of the vectors, one of `POOLINGS`.
        keep: of documents longer than the model reads, one of `KEEPS`.
        vectors: type in which they are stored, one of `VECTOR_DTYPES`.
        compute: how the model is computed.
        threads: of PyTorch in each process; None for its default.
    """

    checkpoint: Path
    data: Path | None
    documents: Documents
    predict: bool = False
    pooling: str = "mean"
    keep: str = "head"
    vectors: str = "float32"
    compute: Compute = Compute()
    threads: int | None = None


@dataclass(frozen=True)
class Window:
    """Rows of the input and what the model reads of them.

    Attributes:
        rows: columns of the input.
        present: (rows,) whether a row has text.
        sequences: of the rows that have.
    """

    rows: pa.Table
    present: npt.NDArray[np.bool_]
    sequences: Sequences


def encode_documents(
    job: EncodingJob, out: Path, settings: Mapping[str, Any], rows: int = 4096, workers: int = 1, force: bool = False
) -> dict[str, int] | None:
    """Write the output, or what is missing of it.

    Args:
        job: what to compute.
        out: the Parquet file.
        settings: all that the values depend on, as plain values.
        rows: of a window, at most.
        workers: processes; one is this process itself.
        force: replace an output, or unfinished work, of other settings.

    Returns:
        Counts of `documents`, those `without_text`, those `longer` than the model reads, and `tokens`.

    Raises:
        UsageError: the output exists with other settings, and not `force`; or the input cannot be read.
    """
    counts = finished_counts(out, settings, force)
    folder = out.with_name(f".{out.name}.parts")
    if counts is not None:
        remove(folder)  # left by a process that was killed while it tidied up
        print(f"{out}: already finished")
        return counts
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; choose another place") from error
    record = folder / "encode.json"
    try:
        begun(record, settings)
    except UsageError:
        if not force:
            raise
        remove(folder)
        begun(record, settings)
    start = time.monotonic()
    try:
        parts = _encode_windows(job, folder, rows, workers)
        results = [part["result"] for part in parts.values()]
        counts = {name: sum(result[name] for result in results) for name in results[0]}
        paths = [folder / f"{name}.parquet" for name in sorted(parts)]
        run_shards(folder, [Shard("join", (paths, out, settings, counts))], join_parts, 0, "join")
    except FileNotFoundError:
        if (counts := finished_counts(out, settings, force)) is None:
            raise
        # Another process has joined the parts and removed them.
    remove(folder)
    print(f"{out}: written in {time.monotonic() - start:,.1f} s")
    return counts


def _encode_windows(job: EncodingJob, folder: Path, rows: int, workers: int) -> dict[str, Any]:
    try:
        cut = run_shards(folder, [Shard("windows", (job.documents, rows, folder))], cut_windows, 0, "read")
    except UsageError:
        remove(folder)  # nothing is computed yet, and repaired files are other settings
        raise
    files, windows = cut["windows"]["result"]["files"], [tuple(span) for span in cut["windows"]["result"]["windows"]]
    # In the order of `run_shards`, so that what is tokenised in advance is what comes next.
    windows = sorted(windows, key=lambda span: span[0] - span[1])
    left = [span for span in windows if not _part(folder, span).exists()]
    following = dict(zip(left, left[max(1, workers) :], strict=False))
    shards = [
        Shard(_part(folder, span).stem, (job, tuple(files), folder, span, following.get(span)), span[1] - span[0])
        for span in windows
    ]
    print(f"{job.checkpoint}: {sum(shard.size for shard in shards):,} documents", flush=True)
    return run_shards(folder, shards, encode_window, workers if workers > 1 else 0, "encode", " documents")


def encode_window(job: EncodingJob, files: tuple[str, ...], folder: Path, span: Span, following: Span | None) -> Done:
    """Compute the rows of `span` and write them; tokenise those of `following` meanwhile."""
    encoder = _encoder(job, files)
    window = encoder.window(span, following if following and not _part(folder, following).exists() else None)
    columns = {name: window.rows.column(name) for name in job.documents.keep} | encoder.columns(window)
    table = pa.table(columns)
    with replace_when_done(_part(folder, span)) as partial:
        pq.write_table(table, partial, **_form(table.schema))
    counts = {
        "documents": len(window.present),
        "without_text": int((~window.present).sum()),
        "longer": window.sequences.longer,
        "tokens": sum(map(len, window.sequences.ids)),
    }
    return Done(counts, [_part(folder, span)])


@lru_cache(maxsize=1)
def _encoder(job: EncodingJob, files: tuple[str, ...]) -> DocumentEncoder:
    return DocumentEncoder(job, files)


class DocumentEncoder:
    """A model and the documents that it reads, loaded once per process."""

    def __init__(self, job: EncodingJob, files: Sequence[str]) -> None:
        if job.threads:
            torch.set_num_threads(job.threads)
        checkpoint = read_any(job.checkpoint)
        self._job = job
        self._longest = encoder_config(checkpoint).max_positions
        self._tokenizer = tokenizer_of(checkpoint, job.data)
        self._classes = labels_of(checkpoint).classes if job.predict else ()
        self._engine = Engine(checkpoint, HEAD if job.predict else job.pooling, job.compute)
        self._reader = RowReader(job.documents, files)
        # One window in advance: tokenising must not stall the model.
        self._thread = ThreadPoolExecutor(1)
        self._prepared: dict[Span, Future[Window]] = {}

    def window(self, span: Span, following: Span | None) -> Window:
        """The rows of `span`, tokenised; those of `following` are begun."""
        coming = self._prepared.pop(span, None) or self._thread.submit(self._tokenize, span)
        self._prepared = {following: self._thread.submit(self._tokenize, following)} if following else {}
        return coming.result()

    def _tokenize(self, span: Span) -> Window:
        rows = self._reader.read(*span)
        texts = texts_of(rows, self._job.documents.text)
        some = [row for row in texts if row is not None]
        sequences = encode(some, self._tokenizer, self._longest, self._job.keep)
        return Window(rows, np.array([row is not None for row in texts]), sequences)

    def columns(self, window: Window) -> dict[str, pa.Array]:
        """`vector`; or `label` and `scores`, the probability of each class; or `score`. Null for rows without text."""
        ids, owners = window.sequences.ids, window.sequences.owners
        weights = None if self._job.predict else np.array([len(sequence) for sequence in ids], dtype=np.float32)
        first = np.diff(owners, prepend=-1) > 0
        start, tokens = time.monotonic(), 0
        # Processes of a pool leave the terminal to their parent.
        with tqdm(total=int(first.sum()), desc="window", unit=" documents", leave=False, disable=_in_pool()) as bar:

            def progress(batch: Order, of_batch: int) -> None:
                nonlocal tokens
                tokens += of_batch
                bar.set_postfix_str(f"{tokens / (time.monotonic() - start):,.0f} tokens/s", refresh=False)
                bar.update(int(first[batch].sum()))

            values = self._engine.run(ids, progress)
        values = of_rows(values, owners, weights, largest=self._job.pooling == "max" and not self._job.predict)
        if not self._job.predict:
            return {"vector": _lists(values.astype(self._job.vectors), window.present)}
        if not self._classes:
            return {"score": _spread(pa.array(values[:, 0], pa.float32()), window.present)}
        names = pa.array(self._classes, pa.string()).take(pa.array(values.argmax(1)))
        return {"label": _spread(names, window.present), "scores": _lists(softmax(values, axis=1), window.present)}


def _in_pool() -> bool:
    return parent_process() is not None


def _lists(values: Values, present: npt.NDArray[np.bool_]) -> pa.Array:
    """(rows with text, C) as lists of one size, a row each."""
    whole = np.zeros((len(present), values.shape[1]), values.dtype)
    whole[present] = values
    return pa.FixedSizeListArray.from_arrays(pa.array(whole.ravel()), values.shape[1], mask=pa.array(~present))


def _spread(values: pa.Array, present: npt.NDArray[np.bool_]) -> pa.Array:
    return values.take(pa.array(np.cumsum(present) - 1, mask=~present))


def join_parts(parts: Sequence[Path], out: Path, settings: Mapping[str, Any], counts: Mapping[str, int]) -> Done:
    """Write the output from its parts."""
    about = {KEY: json.dumps({"settings": settings, "counts": counts})}
    schema = pq.read_schema(parts[0]).with_metadata(about)
    with replace_when_done(out) as partial:
        with pq.ParquetWriter(partial, schema, **_form(schema)) as writer:
            held: list[pa.Table] = []
            for part in parts:
                held.append(pq.read_table(part).replace_schema_metadata(about))
                if sum(table.num_rows for table in held) >= GROUP_ROWS or part == parts[-1]:
                    writer.write_table(pa.concat_tables(held))
                    held = []
        with partial.open("rb") as file:
            os.fsync(file.fileno())
    return Done({})


def finished_counts(out: Path, settings: Mapping[str, Any], force: bool) -> dict[str, int] | None:
    """The counts of a finished output; None if there is none, or one of other settings that `force` replaces.

    Raises:
        UsageError: a file of other settings or of another program, and not `force`.
    """
    if not out.exists():
        return None
    try:
        about = json.loads((pq.read_schema(out).metadata or {})[KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if force:
            return None
        raise UsageError(
            f"{out} is not an output of `linformer encode`; choose another --out, or use --force"
        ) from error
    changed = changed_settings(about["settings"], settings)
    if changed and not force:
        raise UsageError(
            f"{out} holds the result of other settings ({', '.join(changed)} changed); choose another --out, or start "
            "over with --force"
        )
    return None if changed else about["counts"]  # type: ignore[no-any-return]


def _part(folder: Path, span: Span) -> Path:
    return folder / f"{span[0]:012}.parquet"


def _form(schema: pa.Schema) -> dict[str, Any]:
    # The numbers of a vector all differ: a dictionary of them, or their extremes, would only take time.
    others = [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]
    return {"compression": "zstd", "compression_level": 1, "use_dictionary": others, "write_statistics": others}
