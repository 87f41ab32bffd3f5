"""The stage `tokenizer`: a sentencepiece model, or a palette of images, and the fairseq dictionary that matches it.

The model has <unk> as its only special piece (id 0), and dict.txt lists the other pieces in the order of the model, so
that fairseq's ids are those of a trained model plus 3. Imported models may be numbered in any way: see `encoders.py`.
"""

import io
import math
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from data_prep import encoders
from data_prep.config import VOCAB_MULTIPLE, TokenizerConfig
from data_prep.corpus import corpus_files, read_texts
from data_prep.encoders import GPT2_MERGES, GPT2_VOCABULARY, HUGGINGFACE, PALETTE, SENTENCEPIECE
from data_prep.fairseq_dict import DICTIONARY, MASK, SPECIALS, dictionary_text
from data_prep.palette import learn_palette
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import digest, replace_when_done, write_text
from linformer_fairseq.io.records import WORK, begun, finish, names_and_sizes
from linformer_fairseq.io.shards import Done, Shard, run_shards

# Trains in under a minute; a larger sample hardly changes the vocabulary.
SAMPLE_CHARACTERS = 20_000_000
# Results of unigram training depend on the number of threads, so it must not depend on the machine.
TRAINER_THREADS = 16
OTHER_SYMBOLS = len((*SPECIALS, MASK)) - 1  # of the dictionary, besides the pieces of the model, one of which is <unk>


def make_tokenizer(corpus: Path | None, out: Path, config: TokenizerConfig, workers: int = 1) -> dict[str, Any]:
    """Train on a reproducible sample of `corpus`, or import `config.existing`; returns the record of the stage.

    A `dict.txt` beside an imported model is taken as it is, whatever its size. Otherwise one is written that lists the
    symbols of the model in its order, with fillers (`madeupword0000`) to a multiple of 64, as fairseq does.
    """
    record = out / "tokenizer.json"
    if config.existing is not None:
        names = existing_files(Path(config.existing))
        settings: dict[str, Any] = {"existing": {name: digest(path) for path, name in names.items()}}
        if finished := begun(record, settings):
            return finished
        done = run_shards(out, [Shard("import", (names, out))], import_files, 1, "tokenizer")
        return finish(record, settings, done["import"]["result"], done.values())
    if corpus is None:
        raise UsageError("tokenizer: give the folder of a corpus to train on, or a tokenizer with --import")
    for symbol in config.user_symbols:
        if symbol in (*SPECIALS, MASK):
            refusal = f"{symbol}: is a special symbol of fairseq, which has it anyway; leave it out"
            raise UsageError(f"--user-symbols {refusal}")
        if symbol.split() != [symbol]:
            wrong = "has white space, at which fairseq splits" if symbol else "is empty"
            raise UsageError(f"--user-symbols {symbol!r}: {wrong}; choose another")
        if config.user_symbols.count(symbol) > 1:
            raise UsageError(f"--user-symbols {symbol}: is there twice; name each once")
        if config.byte_fallback and re.fullmatch("<0x[0-9A-F]{2}>", symbol):
            remedy = "choose another, or add --no-byte-fallback"
            raise UsageError(f"--user-symbols {symbol}: stands for a byte in every vocabulary with bytes; {remedy}")
    files = corpus_files(corpus)
    settings = {**vars(config), "corpus": names_and_sizes(files)}
    if finished := begun(record, settings, inputs=files):
        return finished
    sampled = sample(files, out, workers)
    parts = [out / name for shard in sampled.values() for name in shard["files"]]
    try:
        learn = learn_palette if config.colours or config.grey_levels else train
        done = run_shards(out, [Shard("train", (parts, out, config))], learn, 1, "tokenizer")
    except UsageError:
        shutil.rmtree(out / WORK, ignore_errors=True)  # other settings would be refused beside this work
        raise
    return finish(record, settings, done["train"]["result"], [*sampled.values(), *done.values()])


def train(parts: Sequence[Path], out: Path, config: TokenizerConfig) -> Done:
    """Train on the paragraphs of some files, and write sentencepiece.model, sentencepiece.vocab and dict.txt."""
    sample = [line for path in parts for line in path.read_bytes().decode().split("\n")[:-1]]
    print(f"tokenizer: training a {config.model} model on {len(sample):,} paragraphs, which takes a minute or less")
    try:
        model = _trained(sample, config)
    except RuntimeError as error:
        unsuited = f"--vocab-size {config.vocab_size} does not suit this corpus of {len(sample):,} sample paragraphs"
        raise UsageError(f"{unsuited}; {_better_size(str(error), sample, config)}") from error
    with replace_when_done(out / SENTENCEPIECE) as partial:
        partial.write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    counts = np.zeros(len(processor), dtype=np.int64)
    for start in range(0, len(sample), 10_000):
        ids = processor.encode(sample[start : start + 10_000], num_threads=1)
        counts += np.bincount(np.fromiter(chain.from_iterable(ids), dtype=np.int64), minlength=len(counts))
    write_text(out / DICTIONARY, dictionary_text(encoders.pieces(processor, out / SENTENCEPIECE), counts[1:].tolist()))
    scores = (f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n" for i in range(len(processor)))
    write_text(out / "sentencepiece.vocab", "".join(scores))
    names = (SENTENCEPIECE, DICTIONARY, "sentencepiece.vocab")
    return Done({"symbols": config.vocab_size, "sample_paragraphs": len(sample)}, [out / name for name in names])


def _trained(sample: list[str], config: TokenizerConfig) -> bytes:
    """A model of as many symbols as asked; raises RuntimeError if the text has too few or too many for it."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample),
        model_writer=model,
        model_type=config.model,
        vocab_size=config.vocab_size - OTHER_SYMBOLS,
        user_defined_symbols=list(config.user_symbols),
        character_coverage=config.character_coverage,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        byte_fallback=config.byte_fallback,  # with it and without normalization, decoding restores any text
        normalization_rule_name="identity",
        max_sentence_length=1 << 20,
        num_threads=TRAINER_THREADS,
        minloglevel=2,
    )
    return model.getvalue()


def _better_size(error: str, sample: list[str], config: TokenizerConfig) -> str:
    """Advise a size with which a model was trained, from the bound in an error of sentencepiece."""
    if bound := re.search(r"a value <= (\d+)|required_chars\. \d+ vs (\d+)", error):
        most, least = bound.groups()
        multiples = (int(most or least) + OTHER_SYMBOLS) / VOCAB_MULTIPLE
        size = VOCAB_MULTIPLE * (math.floor(multiples) if most else math.ceil(multiples))
        with suppress(RuntimeError):
            if size >= config.smallest and _trained(sample, replace(config, vocab_size=size)):
                return f"choose --vocab-size {size}"
    return "it is too small to train on, so give more text, or a tokenizer with --import"


def sample(files: list[Path], out: Path, workers: int, characters: int = SAMPLE_CHARACTERS) -> dict[str, Any]:
    """Write about `characters` characters of the corpus, chosen by the hash of each paragraph; as `run_shards` returns.

    The choice depends on the text alone: not on a random generator, nor on the files and their order.
    """
    shards = [Shard(f"characters-{path.stem}", (path,), path.stat().st_size) for path in files]
    counted = run_shards(out, shards, count_characters, workers, "tokenizer: measure", unit="B")
    threshold = min(1.0, characters / max(1, sum(shard["result"]["characters"] for shard in counted.values()))) * 2**32
    shards = [Shard(f"sample-{path.stem}", (path, out, threshold), path.stat().st_size, [path]) for path in files]
    return run_shards(out, shards, sample_file, workers, "tokenizer: sample", unit="B")


def count_characters(path: Path) -> Done:
    """Count the characters of one file of a corpus."""
    return Done({"characters": sum(map(len, read_texts(path)))})


def sample_file(path: Path, out: Path, threshold: float) -> Done:
    """Write the paragraphs of one file of a corpus whose hash is below a threshold, a line each."""
    paragraphs = (paragraph for text in read_texts(path) for paragraph in text.split("\n"))
    chosen = [line for line in (paragraph.encode() for paragraph in paragraphs) if zlib.crc32(line) < threshold]
    target = out / WORK / f"sample-{path.stem}.txt"
    with replace_when_done(target) as partial:
        partial.write_bytes(b"".join(line + b"\n" for line in chosen))
    return Done({}, [target])


def existing_files(existing: Path) -> dict[Path, str]:
    """The files of a tokenizer, and their names in a tokenizer folder."""
    if (existing / HUGGINGFACE).is_dir() or (existing / PALETTE).is_file():
        return {existing / name: name for name in encoders.load(existing).files}
    folder = existing if existing.is_dir() else existing.parent
    files = {existing: SENTENCEPIECE}
    if existing.is_dir():
        names = (SENTENCEPIECE,) if (existing / SENTENCEPIECE).is_file() else (GPT2_VOCABULARY, GPT2_MERGES)
        files = {existing / name: name for name in names}
    for path in files:
        if not path.is_file():
            kinds = f"a folder with {SENTENCEPIECE}, or with {GPT2_VOCABULARY} and {GPT2_MERGES}"
            raise UsageError(f"{path}: missing; give a sentencepiece model, or {kinds}")
    _tokens(files)  # broken ones are refused before they are copied
    return files | ({folder / DICTIONARY: DICTIONARY} if (folder / DICTIONARY).is_file() else {})


def _tokens(files: Mapping[Path, str]) -> list[str]:
    """The symbols that a tokenizer makes, in its order, from its files and their names in a tokenizer folder."""
    path, name = next(iter(files.items()))
    if name == SENTENCEPIECE:
        return encoders.pieces(encoders.load_model(path), path)
    return [str(i) for i in encoders.read_gpt2_vocabulary(path).values()]


def import_files(names: dict[Path, str], out: Path) -> Done:
    """Copy the files of a tokenizer, and write its dict.txt if there is none."""
    for path, name in names.items():
        with replace_when_done(out / name) as partial:
            shutil.copyfile(path, partial)
    if DICTIONARY not in names.values():
        tokens = _tokens(names)
        write_text(out / DICTIONARY, dictionary_text(tokens, [1] * len(tokens)))
    encoder = encoders.load(out)
    return Done({"symbols": encoder.symbols}, [out / name for name in encoder.files])
