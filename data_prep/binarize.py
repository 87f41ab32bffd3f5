"""The stage `binarize`: from documents to fairseq's `.bin` and `.idx` files, whose content `encoded.py` describes."""

import shutil
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data_prep import encoders
from data_prep.config import BinarizeConfig
from data_prep.corpus import corpus_files, read_texts
from data_prep.encoded import encode_documents, with_suffixes, write_data
from data_prep.split import SPLITS
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest, replace_when_done
from linformer_fairseq.io.pool import prepare_pool
from linformer_fairseq.io.records import WORK, begun, finish, names_and_sizes
from linformer_fairseq.io.shards import Done, Shard, run_shards

# Edges of the histogram of document lengths in tokens: half powers of two, to 2^24.
LENGTH_EDGES = tuple(round(2 ** (half / 2)) for half in range(4, 49))


def binarize(corpus: Path, tokenizer: Path, out: Path, config: BinarizeConfig, workers: int = 1) -> dict[str, Any]:
    """Write `{train,valid,test}.{bin,idx}`, `dict.txt` and the tokenizer's files, from a corpus made by `split`.

    With one shard they are in `out`. With more, each `out/shardNN` has its share of train, and the first also has valid
    and test, where fairseq looks for them. The files of the corpus go to the shards in turn, so that each shard, which
    is an epoch for fairseq, has something of every source. Returns the record of the stage: documents, items and tokens
    of each split, and the histogram of document lengths.
    """
    if not (corpus / "train").is_dir():
        raise UsageError(f"{corpus}: no folder train here; make it with `python -m data_prep split`")
    files = {split: corpus_files(corpus / split) for split in SPLITS if (corpus / split).is_dir()}
    for split, paths in files.items():
        if not any(pq.read_metadata(path).num_rows for path in paths):
            again = f"delete {corpus} and make it again with `python -m data_prep split`"
            share = f"with a share for {split} that gives it some, or none (--{split} 0)"
            raise UsageError(f"{corpus / split}: no documents; {again}, {share}")
    if config.shards > (most := len(files["train"])):
        remedy = "ask for fewer shards, or make smaller files with extract --file-characters"
        few = f"the corpus has only {most} files, and a file goes to one shard"
        raise UsageError(f"--shards {config.shards}: {few}; {remedy}")
    prepare_pool(__name__)  # the pool imports while this process reads the tokenizer
    encoder = _encoder(tokenizer)
    settings = {
        **vars(config),
        "corpus": {split: names_and_sizes(paths) for split, paths in files.items()},
        "tokenizer": {name: digest(tokenizer / name) for name in encoder.files},
    }
    record = out / "binarize.json"
    if finished := begun(record, settings, inputs=[path for paths in files.values() for path in paths]):
        return finished

    # Each file is encoded for itself; then the encoded files of a split are joined.
    parts, folders = out / WORK / "parts", data_folders(out, config.shards)
    shards: list[Shard] = []
    joins: list[Shard] = []
    for split, paths in files.items():
        prefixes = [parts / f"{split}-{path.stem}" for path in paths]
        for path, prefix in zip(paths, prefixes, strict=True):
            given = path, prefix, tokenizer, config.max_item_tokens
            shards.append(Shard(prefix.name, given, path.stat().st_size, [path]))
        targets = folders if split == "train" else folders[:1]
        for number, folder in enumerate(targets):
            arguments = folder / split, prefixes[number :: len(targets)], encoders.smallest_dtype(encoder.symbols)
            joins.append(Shard(f"join-{split}-{number:02d}", arguments))
    encoded = run_shards(out, shards, encode_file, workers, "binarize", unit="B")
    joined = run_shards(out, joins, write_data, min(workers, 4), "binarize: join")
    lengths = np.sum([shard["result"]["lengths"] for shard in encoded.values()], axis=0)
    result = {"symbols": encoder.symbols, "length_edges": list(LENGTH_EDGES), "lengths": lengths.tolist()}
    for split, key in product(files, ("documents", "items", "tokens")):
        counts = (encoded[f"{split}-{path.stem}"]["result"][key] for path in files[split])
        result[f"{split}_{key}"] = sum(counts)
    copies = {}
    for folder, name in product(folders, encoder.files):
        with replace_when_done(folder / name) as partial:
            shutil.copyfile(tokenizer / name, partial)
        copies[str((folder / name).relative_to(out))] = digest(folder / name)
    done = [*encoded.values(), *joined.values(), {"files": copies, "seconds": 0}]
    content = finish(record, settings, result, done)
    shutil.rmtree(parts, ignore_errors=True)  # another task may be doing the same
    return content


def data_folders(out: Path, shards: int) -> list[Path]:
    """The folders that `fairseq-train` gets, joined by colons."""
    return [out] if shards == 1 else [out / f"shard{number:02d}" for number in range(shards)]


def encode_file(source: Path, prefix: Path, tokenizer: Path, max_item_tokens: int) -> Done:
    """Encode one file of the corpus."""
    encoded = encode_documents(read_texts(source), _encoder(tokenizer), max_item_tokens)
    encoded.write(prefix)
    # A document ends with an item of one token, its last </s>, which is not counted in its length.
    ends = np.cumsum(encoded.sizes, dtype=np.int64)[encoded.sizes == 1]
    lengths = np.clip(np.diff(ends, prepend=0) - 1, LENGTH_EDGES[0], LENGTH_EDGES[-1])
    result: dict[str, Any] = {"documents": len(ends), "items": len(encoded.sizes), "tokens": len(encoded.tokens)}
    result["lengths"] = np.histogram(lengths, LENGTH_EDGES)[0].tolist()
    return Done(result, with_suffixes(prefix, "tokens", "sizes"))


_encoder = lru_cache(maxsize=1)(encoders.load)  # once per process
