"""Stage 2: a sentencepiece model, and the fairseq dictionary that fits it exactly.

fairseq numbers its symbols <s> 0, <pad> 1, </s> 2, <unk> 3, then the lines of dict.txt, then <mask>. The
model has <unk> as its only special piece (id 0), and dict.txt lists the other pieces in the model's order:

    fairseq id = sentencepiece id + 3

``binarize`` adds 3 and looks nothing up; ``--bpe sentencepiece`` arrives at the same ids through the pieces.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece
from tqdm import tqdm

from data_prep.corpus import read_row_group, row_groups
from data_prep.stage import (
    DataPrepError,
    describe,
    fingerprint,
    finish,
    finished,
    replace_when_done,
    write_text,
)

MODEL_NAME = "sentencepiece.model"
FAIRSEQ_OFFSET = 3
FAIRSEQ_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
VOCAB_MULTIPLE = 64  # of tensor cores, and of the tensor-parallel degrees people use

# Trains in under a minute; a larger sample hardly changes the vocabulary.
SAMPLE_CHARACTERS = 20_000_000
# Results of unigram training depend on the number of threads, so it must not follow the machine's.
TRAINER_THREADS = 16
# The smallest: one for each byte, one for a space, and some letters.
SMALLEST = 320


def train_tokenizer(corpus: Path, out: Path, vocab_size: int, model_type: str = "unigram") -> dict[str, int]:
    """Trains on a reproducible sample of the corpus; writes sentencepiece.model, .vocab and dict.txt.

    Args:
        corpus: folder of Parquet shards.
        out: folder of the tokenizer.
        vocab_size: size of fairseq's dictionary, with its special symbols and ``<mask>``; a multiple of 64.
        model_type: ``unigram`` or ``bpe``.

    Raises:
        DataPrepError: a vocabulary that is no multiple of 64, or too large or small for the corpus.
    """
    if vocab_size < SMALLEST:
        raise DataPrepError(f"--vocab-size {vocab_size}: must be at least {SMALLEST}, for its 256 bytes and letters")
    if vocab_size % VOCAB_MULTIPLE:
        near = round(vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        raise DataPrepError(f"--vocab-size {vocab_size}: must be a multiple of {VOCAB_MULTIPLE}, for example {near}")
    groups = row_groups(corpus)
    settings = {
        "vocab_size": vocab_size,
        "model": model_type,
        "corpus": [[path.name, fingerprint(path)] for path in dict.fromkeys(path for path, _ in groups)],
    }
    record = out / "tokenizer.json"
    before = finished(record, settings)
    if before is not None:
        print(f"tokenizer: already finished in {out}: {describe(before)}")
        return before

    sample = sample_paragraphs(groups)
    print(f"tokenizer: training a {model_type} model on {len(sample):,} paragraphs, which takes a minute or less")
    model = _train(sample, vocab_size, model_type)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    write_text(out / "dict.txt", fairseq_dictionary(processor, sample))
    pieces = (f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n" for i in range(len(processor)))
    write_text(out / "sentencepiece.vocab", "".join(pieces))
    with replace_when_done(out / MODEL_NAME) as partial:
        partial.write_bytes(model)
    result = {"symbols": vocab_size, "sample_paragraphs": len(sample)}
    finish(record, settings, result)
    print(f"tokenizer: {describe(result)} in {out}")
    return result


def sample_paragraphs(groups: list[tuple[Path, int]], characters: int = SAMPLE_CHARACTERS) -> list[str]:
    """About ``characters`` characters of the corpus, chosen by the hash of each paragraph.

    The choice depends on the text alone: not on a random generator, nor on the shards and their order.
    """
    total = sum(len(text) for text in tqdm(_texts(groups), desc="tokenizer: measure", unit=" documents"))
    threshold = min(1.0, characters / max(1, total)) * 2**32
    return [
        paragraph
        for text in tqdm(_texts(groups), desc="tokenizer: sample", unit=" documents")
        for paragraph in text.split("\n")
        if zlib.crc32(paragraph.encode()) < threshold
    ]


def _texts(groups: list[tuple[Path, int]]) -> Iterator[str]:
    for path, number in groups:
        for text, _ in read_row_group(path, number):
            yield text


def _train(sample: list[str], vocab_size: int, model_type: str) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size - len(FAIRSEQ_SPECIALS) + 1,
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
        raise DataPrepError(
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
    pieces = [processor.id_to_piece(i) for i in range(1, len(processor))]
    bad = [p for p in pieces if p in FAIRSEQ_SPECIALS or p.split() != [p]]
    if bad or processor.unk_id() != 0 or len(set(pieces)) != len(pieces):
        raise DataPrepError(f"the sentencepiece model cannot be numbered as fairseq does (pieces {bad[:3]})")
    return "".join(f"{piece} {count}\n" for piece, count in zip(pieces, counts[1:], strict=True))


def load_tokenizer(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """The model of a tokenizer folder, after a check that dict.txt belongs to it."""
    model, dictionary = folder / MODEL_NAME, folder / "dict.txt"
    for path in (model, dictionary):
        if not path.is_file():
            raise DataPrepError(f"{path}: missing; make it with `python -m data_prep tokenizer`")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    symbols = [line.rsplit(" ", 1)[0] for line in dictionary.read_text(encoding="utf-8").split("\n") if line]
    if symbols != [processor.id_to_piece(i) for i in range(1, len(processor))]:
        raise DataPrepError(f"{dictionary}: does not list the pieces of {model.name}; make both anew")
    return processor
