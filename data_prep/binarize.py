"""The stage ``binarize``: from documents to fairseq's ``.bin`` and ``.idx`` files.

What the stream of tokens is made of, `items.py` says.
"""

from __future__ import annotations

import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import encoders
from data_prep.config import BinarizeConfig
from data_prep.corpus import corpus_files, read_texts
from data_prep.filters import corpus_settings
from data_prep.indexed import smallest_dtype, write_joined
from data_prep.parts import encode_part, write_part
from data_prep.split import SPLITS
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import fingerprint, replace_when_done
from linformer_fairseq.io.pool import prepare_pool
from linformer_fairseq.io.records import WORK, begun, finish
from linformer_fairseq.io.shards import Done, Shard, run_shards

# Of the histogram of document lengths: half powers of two, to 2^24 tokens.
LENGTH_EDGES = tuple(round(2 ** (half / 2)) for half in range(4, 49))


def binarize(corpus: Path, tokenizer: Path, out: Path, config: BinarizeConfig, workers: int = 1) -> dict[str, Any]:
    """Writes ``{train,valid,test}.{bin,idx}``, ``dict.txt`` and the tokenizer's files.

    With one shard they lie in ``out``. With more, each ``out/shardNN`` has its share of train, and the first also
    valid and test, where fairseq looks for them; files of the corpus go to the shards in turn, so that each shard,
    which is an epoch to fairseq, has something of every source.

    Args:
        corpus: folder made by ``split``.
        tokenizer: folder made by ``tokenizer``.
        out: folder for ``fairseq-train``.
        config: shape of the data.
        workers: processes; the bytes do not depend on it.

    Returns:
        The stage's record: documents, items and tokens of each split, and the histogram of document lengths.
    """
    if config.max_item_tokens < 4:
        raise UsageError(f"--max-item-tokens {config.max_item_tokens}: must be at least 4")
    if config.shards < 1:
        raise UsageError(f"--shards {config.shards}: must be at least 1")
    if not (corpus / "train").is_dir():
        raise UsageError(f"{corpus}: no folder train here; make it with `python -m data_prep split`")
    splits = [split for split in SPLITS if (corpus / split).is_dir()]
    files = {split: corpus_files(corpus / split) for split in splits}
    if config.shards > len(files["train"]):
        raise UsageError(
            f"--shards {config.shards}: the corpus has only {len(files['train'])} files, and a file goes to one shard; "
            "ask for fewer shards, or make smaller files with extract --file-characters"
        )
    prepare_pool(__name__)  # it imports while this process reads the tokenizer
    encoder = load_encoder(tokenizer)
    settings = {
        **vars(config),
        "corpus": {split: corpus_settings(corpus / split) for split in splits},
        "tokenizer": {name: fingerprint(tokenizer / name) for name in encoder.files},
    }
    record = out / "binarize.json"
    finished = begun(record, settings)
    if finished is not None:
        return finished
    prefixes = {split: [_prefix(out, split, path) for path in paths] for split, paths in files.items()}
    shards = [
        Shard(prefix.name, (path, prefix, tokenizer, config.max_item_tokens), path.stat().st_size)
        for split in splits
        for path, prefix in zip(files[split], prefixes[split], strict=True)
    ]
    encoded = run_shards(out, shards, encode_file, workers, "binarize", unit="B")
    dtype = np.dtype(smallest_dtype(encoder.symbols)).name
    joins = []
    for split in splits:
        folders = shard_folders(out, config.shards)[: config.shards if split == "train" else 1]
        for number, folder in enumerate(folders):
            share = prefixes[split][number :: len(folders)]
            joins.append(Shard(f"join-{split}-{number:02d}", (share, folder / split, dtype)))
    joined = run_shards(out, joins, join_parts, min(workers, 4), "binarize: join")
    result = _result(splits, files, encoded, encoder.symbols)
    for split in splits:
        if not result[f"{split}_documents"]:
            raise UsageError(f"{corpus / split}: no documents")
    for folder in shard_folders(out, config.shards):
        for name in encoder.files:
            with replace_when_done(folder / name) as temporary:
                shutil.copyfile(tokenizer / name, temporary)
    content = finish(record, settings, result, [*encoded.values(), *joined.values()])
    shutil.rmtree(out / WORK / "parts", ignore_errors=True)  # another task may be at it, too
    return content


def shard_folders(out: Path, shards: int) -> list[Path]:
    """The folders that fairseq gets, joined by colons."""
    return [out] if shards == 1 else [out / f"shard{number:02d}" for number in range(shards)]


def data_argument(out: Path, shards: int) -> str:
    """What ``fairseq-train`` is given as DATA."""
    return os.pathsep.join(map(str, shard_folders(out, shards)))


def encode_file(source: Path, prefix: Path, tokenizer: Path, max_item_tokens: int) -> Done:
    """Writes the tokens and the sizes of the items of one file of the corpus."""
    encoder = load_encoder(tokenizer)
    part = encode_part(read_texts(source), encoder, max_item_tokens)
    write_part(part, prefix)
    # A document ends with the item of one token, its last </s>, which is not counted as its length.
    ends = np.cumsum(part.sizes, dtype=np.int64)[part.sizes == 1]
    lengths = np.clip(np.diff(ends, prepend=0) - 1, LENGTH_EDGES[0], LENGTH_EDGES[-1])
    counts = {"documents": len(ends), "items": len(part.sizes), "tokens": len(part.tokens)}
    return Done({**counts, "lengths": np.histogram(lengths, LENGTH_EDGES)[0].tolist()})


def join_parts(parts: list[Path], prefix: Path, dtype: str) -> Done:
    """Writes ``prefix.bin`` and ``prefix.idx``."""
    write_joined(prefix, parts, np.dtype(dtype).type)
    return Done({}, [prefix.with_name(f"{prefix.name}.{suffix}") for suffix in ("bin", "idx")])


@lru_cache(maxsize=1)
def load_encoder(tokenizer: Path) -> encoders.Encoder:
    """The encoder of a tokenizer folder, loaded once per process."""
    return encoders.load(tokenizer)


def _prefix(out: Path, split: str, source: Path) -> Path:
    return out / WORK / "parts" / f"{split}-{source.stem}"


def _result(
    splits: list[str], files: dict[str, list[Path]], encoded: dict[str, dict[str, Any]], symbols: int
) -> dict[str, Any]:
    result: dict[str, Any] = {"symbols": symbols}
    lengths = np.zeros(len(LENGTH_EDGES) - 1, np.int64)
    for split in splits:
        found = [encoded[f"{split}-{path.stem}"]["result"] for path in files[split]]
        for key in ("documents", "items", "tokens"):
            result[f"{split}_{key}"] = sum(part[key] for part in found)
        lengths += np.sum([part["lengths"] for part in found], axis=0)
    return {**result, "length_edges": list(LENGTH_EDGES), "lengths": lengths.tolist()}
