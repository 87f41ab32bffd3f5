"""Stage 3: from Parquet shards to fairseq's ``train`` and ``valid`` .bin/.idx files.

The stream of tokens: every paragraph ends with </s>; every document ends with one more </s>, alone in its
item, which is what ``--sample-break-mode complete_doc`` takes for a document's end. A paragraph longer than
``--max-item-tokens`` is cut before a word into several items, of which only the last one has the </s>:
fairseq's ``complete`` mode refuses items longer than ``--tokens-per-sample``, and so the stream is the same
with and without cuts.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import (
    MMapIndexedDatasetBuilder,
    best_fitting_int_dtype,
    data_file_path,
    index_file_path,
)
from sentencepiece import SentencePieceProcessor
from tqdm import tqdm

from data_prep.corpus import read_row_group, row_groups
from data_prep.stage import (
    DataPrepError,
    describe,
    fingerprint,
    finish,
    finished,
    process_pool,
    replace_when_done,
    write_text,
)
from data_prep.tokenizer import FAIRSEQ_OFFSET, FAIRSEQ_SPECIALS, MODEL_NAME, load_tokenizer

SPLITS = ("train", "valid")
COUNTED = ("documents", "items", "tokens")
EOS = Dictionary().eos()

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def binarize(
    corpus: Path, tokenizer: Path, out: Path, valid_fraction: float, workers: int, max_item_tokens: int
) -> dict[str, int]:
    """Writes ``out/{train,valid}.{bin,idx}``, ``dict.txt`` and ``sentencepiece.model``.

    The bytes do not depend on ``workers``. A run that was stopped goes on where it was: finished parts lie in
    ``out/.parts``.

    Args:
        corpus: folder of Parquet shards.
        tokenizer: folder made by the tokenizer stage.
        out: folder for ``fairseq-train``.
        valid_fraction: share of the documents for validation, chosen by their hash: a document keeps its side
            when the corpus grows.
        workers: processes.
        max_item_tokens: longest item, its </s> counted; at most ``--tokens-per-sample`` - 2.

    Returns:
        Counts of documents, items and tokens of each split.
    """
    if not 0 <= valid_fraction < 1:
        raise DataPrepError(f"--valid-fraction {valid_fraction}: must be at least 0 and below 1")
    if max_item_tokens < 4:
        raise DataPrepError(f"--max-item-tokens {max_item_tokens}: must be at least 4")
    if workers < 1:
        raise DataPrepError(f"--workers {workers}: must be at least 1")
    groups = row_groups(corpus)
    _, _, dtype = _vocabulary(tokenizer)
    settings = {
        "corpus": [[path.name, fingerprint(path)] for path in dict.fromkeys(path for path, _ in groups)],
        "tokenizer": fingerprint(tokenizer / MODEL_NAME),
        "valid_fraction": valid_fraction,
        "max_item_tokens": max_item_tokens,
    }
    record = out / "binarize.json"
    before = finished(record, settings)
    if before is not None:
        print(f"binarize: already finished in {out}: {describe(before)}")
        return before

    parts = _parts_folder(out, settings)
    todo = [n for n in range(len(groups)) if not _part_record(parts, n).exists()]
    options = (tokenizer, valid_fraction, max_item_tokens)
    with (
        tqdm(total=len(groups), initial=len(groups) - len(todo), desc="binarize", unit="part") as bar,
        process_pool(workers, __name__) as pool,
    ):
        running = [pool.submit(_encode_part, parts, number, groups[number], *options) for number in todo]
        for future in as_completed(running):
            future.result()
            bar.update()
    result = _merge(parts, len(groups), out, dtype)
    if valid_fraction > 0 and not result["valid_documents"]:
        raise DataPrepError(f"--valid-fraction {valid_fraction}: no document in valid; choose a larger one")
    for name in ("dict.txt", MODEL_NAME):
        with replace_when_done(out / name) as temporary:
            shutil.copyfile(tokenizer / name, temporary)
    finish(record, settings, result)
    shutil.rmtree(parts)
    print(f"binarize: {describe(result)} in {out}")
    return result


def split_of(sha256: str, valid_fraction: float) -> str:
    """``train`` or ``valid``, by the hash of the document."""
    return "valid" if int(sha256[:16], 16) < valid_fraction * 2**64 else "train"


def paragraph_items(ids: Ids, starts_word: Mask, max_item_tokens: int) -> Iterator[Ids]:
    """Cuts one paragraph (with its </s>) into items of 2 to ``max_item_tokens`` tokens.

    Args:
        ids: fairseq ids, shape (T,), the last one </s>.
        starts_word: for each id of the vocabulary, whether its piece begins a word.
        max_item_tokens: at least 4.
    """
    # The rest after a cut keeps two tokens or more: an item of one token means the end of a document.
    while len(ids) > max_item_tokens:
        cuts = np.arange(max_item_tokens // 2, min(max_item_tokens, len(ids) - 2) + 1)
        at_words = cuts[starts_word[ids[cuts]]]
        cut = at_words[-1] if len(at_words) else cuts[-1]
        yield ids[:cut]
        ids = ids[cut:]
    yield ids


def _encode_part(
    parts: Path,
    number: int,
    group: tuple[Path, int],
    tokenizer: Path,
    valid_fraction: float,
    max_item_tokens: int,
) -> None:
    """Writes the files of one row group into ``parts``, and last of all the record that it is complete."""
    processor, starts_word, dtype = _vocabulary(tokenizer)
    prefixes = {split: _part_prefix(parts, number, split) for split in SPLITS}
    builders = {s: MMapIndexedDatasetBuilder(data_file_path(prefix), dtype) for s, prefix in prefixes.items()}
    counts: Counter[str] = Counter()
    for text, sha256 in read_row_group(*group):
        split = split_of(sha256, valid_fraction)
        paragraphs = processor.encode(text.split("\n"), num_threads=1)
        items = [item for ids in paragraphs for item in _items(ids, starts_word, max_item_tokens)]
        items.append(np.array([EOS]))
        for item in items:
            builders[split].add_item(torch.from_numpy(item))
        counts[f"{split}_documents"] += 1
        counts[f"{split}_items"] += len(items)
        counts[f"{split}_tokens"] += sum(map(len, items))
    for split, builder in builders.items():
        builder.finalize(index_file_path(prefixes[split]))
    write_text(_part_record(parts, number), json.dumps(counts))


def _items(ids: list[int], starts_word: Mask, max_item_tokens: int) -> Iterator[Ids]:
    paragraph = np.array([*ids, EOS - FAIRSEQ_OFFSET]) + FAIRSEQ_OFFSET
    return paragraph_items(paragraph, starts_word, max_item_tokens)


@lru_cache(maxsize=1)
def _vocabulary(tokenizer: Path) -> tuple[SentencePieceProcessor, Mask, type]:
    """The model, which fairseq ids begin a word, and the integer type that holds every id."""
    processor = load_tokenizer(tokenizer)
    symbols = len(processor) - 1 + len(FAIRSEQ_SPECIALS)
    starts_word = np.zeros(symbols, dtype=np.bool_)
    for piece in range(len(processor)):
        starts_word[piece + FAIRSEQ_OFFSET] = processor.id_to_piece(piece).startswith("\u2581")
    return processor, starts_word, best_fitting_int_dtype(symbols)


def _merge(parts: Path, total: int, out: Path, dtype: type) -> dict[str, int]:
    """Joins the parts in order into ``out``; a split without documents gets no files."""
    counts: Counter[str] = Counter()
    for number in range(total):
        counts.update(json.loads(_part_record(parts, number).read_text()))
    for split in SPLITS:
        if counts[f"{split}_documents"] == 0:
            continue
        prefix = str(out / split)
        with (
            replace_when_done(Path(index_file_path(prefix))) as index,
            replace_when_done(Path(data_file_path(prefix))) as data,
        ):
            builder = MMapIndexedDatasetBuilder(data, dtype)
            for number in range(total):
                builder.merge_file_(_part_prefix(parts, number, split))
            builder.finalize(index)
    return {f"{split}_{what}": counts[f"{split}_{what}"] for split in SPLITS for what in COUNTED}


def _parts_folder(out: Path, settings: Mapping[str, Any]) -> Path:
    """``out/.parts``, emptied if it holds parts that were made with other settings."""
    parts = out / ".parts"
    record = parts / "settings.json"
    content = json.dumps(settings, sort_keys=True)
    if parts.exists() and not (record.exists() and record.read_text() == content):
        shutil.rmtree(parts)
    write_text(record, content)
    return parts


def _part_prefix(parts: Path, number: int, split: str) -> str:
    return str(parts / f"{split}-{number:06d}")


def _part_record(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.json"
