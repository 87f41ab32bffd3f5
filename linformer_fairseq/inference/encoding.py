"""Documents to a Parquet file of vectors or predictions, shared by many processes.

The input is cut into windows of rows, the shards of `io/shards.py`. Each window's output is a Parquet file in a hidden
folder beside --out; when all are there, one process joins them and removes the folder.
"""

import json
from collections.abc import Mapping
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
from scipy.special import expit, softmax
from tqdm import tqdm

from linformer_fairseq.checkpoints.checkpoint import encoder_config, read
from linformer_fairseq.checkpoints.names import DEFAULT_HEAD
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.documents import Documents, cut_windows, texts_of, window_file
from linformer_fairseq.inference.engine import Compute, Engine
from linformer_fairseq.inference.predict import labels_of
from linformer_fairseq.inference.sequences import Sequences, encode, tokenizer_of
from linformer_fairseq.io.files import remove, replace_when_done, sync
from linformer_fairseq.io.records import WORK, Inputs, begun, changed_settings, read_record, refuse_other_inputs
from linformer_fairseq.io.shards import Done, Shard, record_of, run_shards
from linformer_fairseq.tables import open_parquet

KEY = b"linformer_fairseq"  # of the settings and counts in the output's metadata
GROUP_ROWS = 1 << 14  # of a row group of the output, at least
COUNTS = ("documents", "without_text", "longer", "tokens")  # `longer` than the model reads

Present = npt.NDArray[np.bool_]
Prepared = tuple[pa.Table, Present, Sequences]  # rows; which of them have text; the input of those


@dataclass(frozen=True)
class EncodingJob:
    """What is computed of which documents."""

    checkpoint: Path
    data: Path | None  # folder of its tokenizer; None for the one that it was trained with
    documents: Documents
    predict: bool = False  # labels or scores of a fine-tuned checkpoint, instead of vectors
    pooling: str = "mean"  # of the vectors, one of `POOLINGS`
    keep: str = "head"  # what is read of long documents, one of `KEEPS`
    vectors: str = "float32"  # type in which they are stored, one of `VECTOR_DTYPES`
    compute: Compute = Compute()
    threads: int = 1  # of PyTorch, in each process
    window: int = 4096  # rows, at most, that are batched and written together
    workers: int = 1  # processes


def encode_documents(job: EncodingJob, out: Path, settings: Mapping[str, Any], force: bool = False) -> dict[str, int]:
    """Write the output, or what is missing of it, and return its `COUNTS`.

    `settings` are all that the values depend on, in JSON's types. `force` replaces an output, or unfinished work, of
    other settings, which is a UsageError otherwise, as is an input that cannot be read.
    """
    folder = out.with_name(f".{out.name}.parts")
    try:
        if (counts := _finished_counts(job, out, settings, force)) is None:
            _begin(job, folder, out, settings, force)
            counts, inputs = _encode_windows(job, folder)
            about = {"settings": settings, "counts": counts, "inputs": inputs}
            if not out.exists():  # joined before a kill, and moved away since
                record_of(folder / WORK, "join").unlink(missing_ok=True)
            run_shards(folder, [Shard("join", (folder, out, about))], join, 0, "join")
    except FileNotFoundError:  # another process has joined the parts and removed them
        if (counts := _finished_counts(job, out, settings, force)) is None:
            raise
    remove(folder)
    return counts


def _finished_counts(job: EncodingJob, out: Path, settings: Mapping[str, Any], force: bool) -> dict[str, int] | None:
    """What `encode_documents` returned for a finished output; None if there is none, or `force` replaces it."""
    if not out.exists():
        return None
    remedy = "choose another --out, or start over with --force"
    try:
        try:
            about = json.loads((pq.read_schema(out).metadata or {})[KEY])
            changed = changed_settings(about["settings"], settings)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise UsageError(f"{out} is not an output of `linformer encode`; {remedy}") from error
        if changed:
            raise UsageError(f"{out} holds the result of other settings ({', '.join(changed)} changed); {remedy}")
        refuse_other_inputs(out, job.documents.files, about, "result")
    except UsageError:
        if force:
            return None
        raise
    try:
        with open_parquet(out) as file:
            for number in range(file.num_row_groups):
                file.read_row_group(number)
    except UsageError:
        print(f"{out} is damaged, and made again")
        return None
    return dict(about["counts"])


def _begin(job: EncodingJob, folder: Path, out: Path, settings: Mapping[str, Any], force: bool) -> None:
    try:
        begun(folder / "encode.json", settings)
        cut = read_record(record_of(folder / WORK, "windows"))
        refuse_other_inputs(out, job.documents.files, cut, "unfinished work")
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}; choose another place") from error
    except UsageError:
        if not force:
            raise
        remove(folder)
        begun(folder / "encode.json", settings)


def _encode_windows(job: EncodingJob, folder: Path) -> tuple[dict[str, int], Inputs]:
    first = Shard("windows", (job.documents, job.window, folder), 1, job.documents.files)
    try:
        cut = run_shards(folder, [first], cut_windows, 0, "read")
    except UsageError:
        remove(folder)  # nothing is computed yet, and a repaired input is another setting
        raise
    sizes = cut["windows"]["result"]["windows"]
    # In the order of `run_shards`, so that the window that is tokenised in advance is the one that comes next.
    windows = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    left = [number for number in windows if not _part(folder, number).exists()]
    following = dict(zip(left, left[job.workers :], strict=False))
    shards = [Shard(_part(folder, i).stem, (job, folder, i, following.get(i)), sizes[i]) for i in windows]
    processes = job.workers if job.workers > 1 else 0
    done = run_shards(folder, shards, encode_window, processes, "encode", " documents").values()
    counts = {name: sum(shard["result"][name] for shard in done) for name in COUNTS}
    seconds = sum(shard["seconds"] for shard in done) or 0.001  # nothing to compute, and a clock of milliseconds
    speed = [f"{counts[name] / seconds:,.1f} {name}/s" for name in ("documents", "tokens")]
    print(f"{job.checkpoint}: {' and '.join(speed)} in each process")
    return counts, cut["windows"]["inputs"]


def encode_window(job: EncodingJob, folder: Path, window: int, following: int | None) -> Done:
    """Write the output of one window; tokenise the following one meanwhile."""
    if following is not None and _part(folder, following).exists():  # another process was faster
        following = None
    encoder = _document_encoder(job, folder)
    rows, present, sequences = encoder.prepared(window, following)
    table = pa.table({name: rows.column(name) for name in job.documents.keep} | encoder.columns(present, sequences))
    with replace_when_done(_part(folder, window)) as partial:
        pq.write_table(table, partial, **_form(table.schema))
    counts = len(present), int((~present).sum()), sequences.longer, sum(map(len, sequences.ids))
    return Done(dict(zip(COUNTS, counts, strict=True)), [_part(folder, window)])


def join(folder: Path, out: Path, about: Mapping[str, Any]) -> Done:
    """Write the output from its parts."""
    parts = sorted(folder.glob("[0-9]*.parquet"))
    if sum(pq.read_metadata(part).num_rows for part in parts) != about["counts"]["documents"]:
        raise FileNotFoundError(folder)
    metadata = {KEY: json.dumps(about)}
    schema = pq.read_schema(parts[0]).with_metadata(metadata)
    with replace_when_done(out) as partial:
        with pq.ParquetWriter(partial, schema, **_form(schema)) as writer:
            held: list[pa.Table] = []
            for part in parts:
                held.append(pq.read_table(part, page_checksum_verification=True).replace_schema_metadata(metadata))
                if sum(table.num_rows for table in held) >= GROUP_ROWS or part == parts[-1]:
                    writer.write_table(pa.concat_tables(held))
                    held = []
        sync(partial)
    return Done({})


def _part(folder: Path, window: int) -> Path:
    return folder / f"{window:09}.parquet"


def _form(schema: pa.Schema) -> dict[str, Any]:
    # The numbers of a vector all differ: a dictionary of them, or their extremes, would only take time.
    others = [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]
    form = {"compression": "zstd", "compression_level": 1, "write_page_checksum": True}
    return form | {"use_dictionary": others, "write_statistics": others}


class DocumentEncoder:
    """A model, and the windows in a folder that it reads."""

    def __init__(self, job: EncodingJob, folder: Path) -> None:
        torch.set_num_threads(job.threads)
        checkpoint = read(job.checkpoint)
        self._job, self._folder = job, folder
        self._longest = encoder_config(checkpoint).max_positions
        self._tokenizer = tokenizer_of(checkpoint, job.data)
        self._labels = labels_of(checkpoint) if job.predict else None
        self._engine = Engine(checkpoint, DEFAULT_HEAD if job.predict else job.pooling, job.compute)
        self._thread = ThreadPoolExecutor(1)  # tokenises while the model computes
        self._coming: dict[int, Future[Prepared]] = {}

    def prepared(self, window: int, following: int | None = None) -> Prepared:
        """A window, tokenised; begin with the following one."""
        coming = self._coming.pop(window, None) or self._thread.submit(self._prepare, window)
        self._coming = {} if following is None else {following: self._thread.submit(self._prepare, following)}
        return coming.result()

    def _prepare(self, window: int) -> Prepared:
        with open_parquet(window_file(self._folder, window)) as file:
            rows = file.read()
        texts = texts_of(rows, self._job.documents.text)
        some = [row for row in texts if row is not None]
        sequences = encode(some, self._tokenizer, self._longest, self._job.keep)
        return rows, np.array([row is not None for row in texts]), sequences

    def columns(self, present: Present, sequences: Sequences) -> dict[str, pa.Array]:
        """`vector`; or `label` and `scores`, the probability of each class; or `score`. Null for rows without text."""
        # Processes of a pool leave the terminal to their parent.
        hidden = parent_process() is not None
        tokens = sum(map(len, sequences.ids))
        with tqdm(total=tokens, unit=" tokens", unit_scale=True, leave=False, disable=hidden) as bar:
            values = self._engine.rows(sequences, bar.update)
        if self._labels is None:
            found = {"vector": _lists(values.astype(self._job.vectors))}
        elif self._labels.classes:
            shares = expit(values) if self._labels.several else softmax(values, axis=1)
            found = {"label": pa.array(self._labels.names(values), pa.string()), "scores": _lists(shares)}
        else:
            found = {"score": pa.array(values[:, 0], pa.float32())}
        places = pa.array(np.cumsum(present) - 1, mask=~present)
        return {name: column.take(places) for name, column in found.items()}


_document_encoder = lru_cache(maxsize=1)(DocumentEncoder)  # loaded once per process


def _lists(values: npt.NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
