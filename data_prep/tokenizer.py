"""The stage ``tokenizer``: a sentencepiece model, and the fairseq dictionary that fits it exactly.

fairseq numbers its symbols <s> 0, <pad> 1, </s> 2, <unk> 3, then the lines of dict.txt, then <mask>. The
model has <unk> as its only special piece (id 0), and dict.txt lists the other pieces in the model's order, so that a
trained model's ids are fairseq's minus 3. Models from elsewhere may be numbered in any way: see ``encoders.py``.
"""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tqdm import tqdm

from data_prep.config import TokenizerConfig
from data_prep.corpus import corpus_files, read_file
from data_prep.encoders import (
    GPT2_MERGES,
    GPT2_VOCABULARY,
    SENTENCEPIECE,
    load,
    load_model,
    pieces,
    read_gpt2_vocabulary,
)
from data_prep.fairseq_dict import MASK, SPECIALS, VOCAB_MULTIPLE, dictionary_text
from data_prep.fairseq_dict import NAME as DICTIONARY
from data_prep.filters import corpus_settings
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import fingerprint, replace_when_done, write_text
from linformer_fairseq.io.records import begun, finish
from linformer_fairseq.io.shards import Done, Shard, run_shards

# Trains in under a minute; a larger sample hardly changes the vocabulary.
SAMPLE_CHARACTERS = 20_000_000
# Results of unigram training depend on the number of threads, so it must not follow the machine's.
TRAINER_THREADS = 16
# The smallest: one for each byte, one for a space, and some letters.
SMALLEST = 320


def train_tokenizer(corpus: Path, out: Path, vocab_size: int, model_type: str = "unigram") -> dict[str, Any]:
    """Trains on a reproducible sample of the corpus; writes sentencepiece.model, .vocab and dict.txt.

    Args:
        corpus: folder of Parquet shards.
        out: folder of the tokenizer.
        vocab_size: size of fairseq's dictionary, with its special symbols and ``<mask>``; a multiple of 64.
        model_type: ``unigram`` or ``bpe``.

    Raises:
        UsageError: a vocabulary that is no multiple of 64, or too large or small for the corpus.
    """
    if vocab_size < SMALLEST:
        raise UsageError(f"--vocab-size {vocab_size}: must be at least {SMALLEST}, for its 256 bytes and letters")
    if vocab_size % VOCAB_MULTIPLE:
        near = round(vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        raise UsageError(f"--vocab-size {vocab_size}: must be a multiple of {VOCAB_MULTIPLE}, for example {near}")
    settings = {"vocab_size": vocab_size, "model": model_type, "corpus": corpus_settings(corpus)}
    record = out / "tokenizer.json"
    finished = begun(record, settings)
    if finished is not None:
        return finished
    arguments = (corpus_files(corpus), out, vocab_size, model_type)
    done = run_shards(out, [Shard("train", arguments)], train_shard, 1, "tokenizer")
    return finish(record, settings, done["train"]["result"], done.values())


def train_shard(files: list[Path], out: Path, vocab_size: int, model_type: str) -> Done:
    """Samples, trains, and writes the tokenizer's files."""
    sample = sample_paragraphs(files)
    print(f"tokenizer: training a {model_type} model on {len(sample):,} paragraphs, which takes a minute or less")
    model = _train(sample, vocab_size, model_type)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    write_text(out / DICTIONARY, fairseq_dictionary(processor, sample))
    scores = (f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n" for i in range(len(processor)))
    write_text(out / "sentencepiece.vocab", "".join(scores))
    with replace_when_done(out / SENTENCEPIECE) as partial:
        partial.write_bytes(model)
    return Done(
        {"symbols": vocab_size, "sample_paragraphs": len(sample)},
        [out / name for name in (SENTENCEPIECE, DICTIONARY, "sentencepiece.vocab")],
    )


def import_tokenizer(existing: Path, out: Path) -> dict[str, Any]:
    """Makes a tokenizer folder of a tokenizer that exists.

    A ``dict.txt`` beside it is taken as it is, whatever its size; otherwise one is written that lists the model's
    symbols in its order, with made-up ones (``madeupword0000``) to a multiple of 64, as fairseq does.

    Args:
        existing: a sentencepiece model, or a folder with ``sentencepiece.model``, or with GPT-2's ``encoder.json``
            and ``vocab.bpe``.
        out: folder of the tokenizer.

    Raises:
        UsageError: no tokenizer there, or one that fairseq cannot use.
    """
    names = {existing: SENTENCEPIECE} if existing.is_file() else {}
    if existing.is_dir():
        wanted = (SENTENCEPIECE,) if (existing / SENTENCEPIECE).is_file() else (GPT2_VOCABULARY, GPT2_MERGES)
        names = {existing / name: name for name in wanted}
    missing = [path for path in names or [existing] if not path.is_file()]
    if missing:
        raise UsageError(
            f"{missing[0]}: missing; give a sentencepiece model, or a folder with {SENTENCEPIECE}, or with "
            f"{GPT2_VOCABULARY} and {GPT2_MERGES}"
        )
    given = (existing if existing.is_dir() else existing.parent) / DICTIONARY
    if given.is_file():
        names[given] = DICTIONARY
    settings = {"existing": {name: fingerprint(path) for path, name in names.items()}}
    record = out / "tokenizer.json"
    finished = begun(record, settings)
    if finished is not None:
        return finished
    done = run_shards(out, [Shard("import", (names, out))], import_shard, 1, "tokenizer")
    return finish(record, settings, done["import"]["result"], done.values())


def import_shard(names: dict[Path, str], out: Path) -> Done:
    """Copies the files of a tokenizer, and writes its dict.txt if there is none."""
    for path, name in names.items():
        with replace_when_done(out / name) as temporary:
            shutil.copyfile(path, temporary)
    if DICTIONARY not in names.values():
        if (out / SENTENCEPIECE).is_file():
            produced = pieces(load_model(out / SENTENCEPIECE), out / SENTENCEPIECE)
        else:
            vocabulary = read_gpt2_vocabulary(out / GPT2_VOCABULARY)
            produced = [str(i) for token, i in sorted(vocabulary.items(), key=lambda item: item[1])]
        write_text(out / DICTIONARY, dictionary_text(produced, [1] * len(produced)))
    encoder = load(out)
    return Done({"symbols": encoder.symbols}, [out / name for name in encoder.files])


def sample_paragraphs(files: list[Path], characters: int = SAMPLE_CHARACTERS) -> list[str]:
    """About ``characters`` characters of the corpus, chosen by the hash of each paragraph.

    The choice depends on the text alone: not on a random generator, nor on the shards and their order.
    """
    total = sum(len(text) for text in tqdm(_texts(files), desc="tokenizer: measure", unit=" documents"))
    threshold = min(1.0, characters / max(1, total)) * 2**32
    return [
        paragraph
        for text in tqdm(_texts(files), desc="tokenizer: sample", unit=" documents")
        for paragraph in text.split("\n")
        if zlib.crc32(paragraph.encode()) < threshold
    ]


def _texts(files: list[Path]) -> Iterator[str]:
    for path in files:
        for document in read_file(path):
            yield document.text


def _train(sample: list[str], vocab_size: int, model_type: str) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size - len((*SPECIALS, MASK)) + 1,  # <unk> is one of the model's own pieces
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            byte_fallback=True,  # with it and without normalization, decoding gives any text back
            normalization_rule_name="identity",
            max_sentence_length=1 << 20,
            num_threads=TRAINER_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UsageError(
            f"--vocab-size {vocab_size} does not suit this corpus of {len(sample):,} sample paragraphs; "
            f"choose another one (sentencepiece says: {str(error).strip().splitlines()[-1]})"
        ) from error
    return model.getvalue()


def fairseq_dictionary(processor: sentencepiece.SentencePieceProcessor, sample: list[str]) -> str:
    """The lines ``piece count`` of a dict.txt, in the order of the model, counted on ``sample``."""
    counts = np.zeros(len(processor), dtype=np.int64)
    for start in range(0, len(sample), 10_000):
        ids = processor.encode(sample[start : start + 10_000], num_threads=1)
        counts += np.bincount(np.fromiter(chain.from_iterable(ids), dtype=np.int64), minlength=len(counts))
    names = [processor.id_to_piece(i) for i in range(1, len(processor))]
    bad = [p for p in names if p in (*SPECIALS, MASK) or p.split() != [p]]
    if bad or processor.unk_id() != 0 or len(set(names)) != len(names):
        raise UsageError(f"the sentencepiece model cannot be numbered as fairseq does (pieces {bad[:3]})")
    return dictionary_text(names, counts[1:].tolist())


def make_tokenizer(corpus: Path | None, out: Path, config: TokenizerConfig) -> dict[str, Any]:
    """Imports the tokenizer that ``config`` names, or trains one on ``corpus``."""
    if config.existing is not None:
        return import_tokenizer(Path(config.existing), out)
    if corpus is None:
        raise UsageError("tokenizer: give the folder of a corpus to train on, or a tokenizer with --import")
    return train_tokenizer(corpus, out, config.vocab_size, config.model)
