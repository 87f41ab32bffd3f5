"""What a converted encoder keeps of its original: short sentences, and passages of books.

    linformer convert from-bert all-MiniLM-L6-v2 exact.pt --attention exact
    python recipes/measure/converted.py exact.pt --stsb STS-B --texts BOOKS --student w16=student.pt --out RUN

STS-B is GLUE's folder with dev.tsv, BOOKS holds a .txt file for each book. A vector is the mean over all tokens of a
text, as sentence-transformers has it, scaled to length 1. A student is a converted model that was trained further.
"""

from collections.abc import Callable
from functools import cache, partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data_prep.encoders import Encoder
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config, read
from linformer_fairseq.checkpoints.warm_start import to_linformer
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.glue import find_task
from linformer_fairseq.inference.engine import Compute, Engine
from linformer_fairseq.inference.sequences import BOS, EOS, Ids, encode, tokenizer_of
from linformer_fairseq.measuring.study import Cells, Measurement, Options, Results, flag, heading, markdown
from linformer_fairseq.measuring.trainings import students
from linformer_fairseq.scores import score
from linformer_fairseq.tables import read_table

PASSAGES = 3  # of each book
ROW = "{Spearman:.2f}|{short:,}|{difference:.1e}|{cosine:.4f}|{quarters:.1f}|{halves:.1f}"
CHARACTERS = 20  # of a book, which surely hold a token

Values = npt.NDArray[np.float32]
Make = Callable[[], Checkpoint]
Texts = list[list[Ids]]  # lists of ids with <s> and </s>, each the first of all pairs and then the second of all pairs


def measure(options: Options, cells: Cells) -> None:
    torch.set_num_threads(1)
    original, lengths, windows = read(options.original), options.projected_length, options.local_window
    if (kind := encoder_config(original).attention) != "exact":
        raise UsageError(f"{options.original} has --attention {kind}; convert its model with --attention exact")
    makes: dict[str, Make] = {"original": original.converted}
    makes[f"fixed blocks, k = {max(lengths)}"] = partial(to_linformer, original, str(max(lengths)))
    for k, w in product(lengths, windows):
        makes[f"adaptive, k = {k}, W = {w}"] = partial(to_linformer, original, str(k), kind="adaptive", window=w)
    makes |= {f"window alone, W = {w}": partial(without_slots, original, w) for w in windows if w}
    for name, student in students(options.student, original):
        makes[f"student, {name}"] = student.converted
        config = encoder_config(student)
        if config.local_window and config.attention == "linformer":
            makes[f"student, {name}, slots off"] = partial(without_slots, student, config.local_window)
            makes[f"student, {name}, window off"] = partial(
                student.converted, model=student.model | {"local_window": 0}
            )
    texts, scores = gather(options, original)
    exact = cache(partial(vectors_of, original, texts))
    cells.run({name: partial(kept, make, texts, scores, exact) for name, make in makes.items()})


def without_slots(model: Checkpoint, window: int) -> Checkpoint:
    """The model with attention to the window alone."""
    state = {name: value for name, value in model.state.items() if ".E." not in name and ".F." not in name}
    return model.converted(model=model.model | {"attention": "local", "local_window": window}, state=state)


def gather(options: Options, original: Checkpoint) -> tuple[Texts, list[float]]:
    """Sentences of STS-B, halves of passages, and halves of the first halves; people's scores of the sentences."""
    tokenizer, n, task = tokenizer_of(original, None), encoder_config(original).max_positions, find_task("STS-B")
    if not 6 <= options.tokens <= n:
        raise UsageError(f"--tokens {options.tokens}: must lie between 6 and {n}, the longest input of the original")
    table = read_table(options.stsb / "dev.tsv", task.text, task.label)
    sentences = [(sentence,) for column in zip(*table.texts, strict=True) for sentence in column]
    half = options.tokens - 2
    passages = read_passages(options.texts, tokenizer, 2 * half)
    parts = (np.split(whole, 2, axis=1) for whole in (passages, passages[:, : half // 2 * 2]))
    halves, quarters = ([np.array([BOS, *row, EOS]) for row in np.concatenate(part)] for part in parts)
    return [encode(sentences, tokenizer, n).ids, halves, quarters], list(map(float, table.labels or ()))


def read_passages(folder: Path, tokenizer: Encoder, length: int) -> Ids:
    """(passages, length) at even distances in each book."""
    found = []
    for file in sorted(folder.glob("*.txt")):
        text = file.read_text(encoding="utf-8", errors="replace")
        for part in range(1, PASSAGES + 1):
            start = text.find(" ", len(text) * part // (PASSAGES + 1))  # at the end of a word
            found.append(tokenizer.encode([text[start:][: CHARACTERS * length]])[0][:length])
            if len(found[-1]) < length:
                raise UsageError(f"--texts {file}: is too short for {PASSAGES} passages; remove it from the folder")
    if not found:
        raise UsageError(f"--texts {folder}: has no .txt files; put one there for each book")
    return np.array(found, dtype=np.int64)


def vectors_of(model: Checkpoint, texts: Texts) -> list[Values]:
    """(texts, C) for each list."""
    vectors = Engine(model, "mean", Compute("cpu")).run([*chain(*texts)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.split(vectors, np.cumsum([*map(len, texts)])[:-1])


def kept(make: Make, texts: Texts, scores: list[float], exact: Callable[[], list[Values]]) -> dict[str, Any]:
    """The figures of one model beside the vectors of the original."""
    model = make()
    config, vectors = encoder_config(model), vectors_of(model, texts)
    (sentences, halves, quarters), (exact_sentences, exact_halves, _) = vectors, exact()
    limit = config.lengths[0] if config.attention == "linformer" else config.max_positions
    short = [len(sentence) <= limit for sentence in texts[0]]
    ones, others = np.split(sentences, 2)
    return {
        "Spearman": score("spearman", scores, (ones * others).sum(1).tolist()),
        "short": sum(short),
        "difference": float(np.abs(sentences - exact_sentences)[short].max(initial=0)),
        "cosine": float(np.split((halves * exact_halves).sum(1), 2)[0].mean()),
        "quarters": found_in(quarters),
        "halves": found_in(halves),
    }


def found_in(vectors: Values) -> float:
    """Percent of the first parts whose nearest second part, by cosine, is their own."""
    ones, others = np.split(vectors, 2)
    return 100 * float(np.mean((ones @ others.T).argmax(1) == np.arange(len(ones))))


def table(results: Results) -> str:
    """A row for each model."""
    n = results["settings"]["tokens"]
    header = ["", "STS-B dev", "sentences of at most k tokens", "largest difference", f"cosine, {n} tokens"]
    header += [f"halves of {half} found, %" for half in ((n - 2) // 2, n - 2)]
    rows = ([name, *ROW.format(**row).split("|")] for name, row in results["cells"].items())
    return heading("What a converted encoder keeps", results, ABOUT) + markdown(header, rows)


ABOUT = """STS-B dev: Spearman correlation x 100 of cosines with people's scores. Largest difference: of a component of
these sentences' vectors from the original's; without slots, of all sentences. Cosine: to the original's vector, mean
over passages of books. Halves: the first half of a passage finds its second half among those of all passages. Fixed
blocks: linear projection, block means. Only students are trained after conversion, and not again with a part off."""
FLAGS = [
    flag("original", Path, "from `linformer convert from-bert ... --attention exact`"),
    flag("--stsb", Path, "folder of GLUE's STS-B, with dev.tsv"),
    flag("--texts", Path, "folder of .txt files, one for each book"),
    flag("--student", [], "NAME=FILE: converted models that were trained further", cells=True),
    flag("--projected-length", [128, 64, 16], quick=[16], cells=True),
    flag("--local-window", [0, 16, 64], quick=[0], cells=True, least=0),
    flag("--tokens", 512, "of a half of a passage", quick=64),
]
MEASUREMENT = Measurement(__file__, __doc__, FLAGS, measure, table)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
