"""Long documents: a converted model that reads them whole, beside what its original can do with 512 positions.

    linformer convert from-bert all-MiniLM-L6-v2 exact.pt --attention exact
    python recipes/measure/long_documents.py exact.pt --books BOOKS --imdb IMDB --student distilled=FILE.pt --out RUN

BOOKS holds a .txt file for each book, best named Author__Title.txt, and IMDB the files train.tsv and test.tsv with the
columns sentence and label. Each reader makes a vector of each document. The vectors stay as they are: a logistic
regression is trained on them, and the neighbour of a passage is searched by cosine. Readers take turns.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from data_prep.encoders import Encoder
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, encoder_config, read, untrained
from linformer_fairseq.checkpoints.extend import resize_positions
from linformer_fairseq.checkpoints.names import POSITIONS
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.engine import Compute, Engine
from linformer_fairseq.inference.sequences import Ids, arrange, tokenizer_of
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.measuring import study
from linformer_fairseq.measuring.study import Cells, Options, Results, Work, flag, markdown, rounds_of
from linformer_fairseq.measuring.trainings import students
from linformer_fairseq.tables import read_table

SPECIAL = 2  # <s> and </s> around what is read
SEEDS = range(3)  # of the splits
C = [0.1, 1.0, 10.0, 100.0, 1000.0]
WORDS = 600  # shorter reviews are left out
MARGIN = 0.05  # of a book at each end, where title, author and licence stand
# How the names of readers begin.
TRUNCATED, CHUNKS, EXACT, WHOLE = "first", "mean of chunks", "exact attention", ("converted", "student")
ORIGINAL = [(f"{TRUNCATED} {n} tokens", n, "head") for n in (256, 512)]
ORIGINAL += [(f"{CHUNKS} of {n}", n + SPECIAL, "chunks") for n in (256, 510)]
STRETCHES = {"tile": "repeated", "interpolate": "interpolated"}
ADAPTIVE = {"attention": "linformer", "projection": "adaptive", "projection_sharing": "key-value"}

Values = np.ndarray[Any, Any]
Reader = Callable[[Sequence[Ids]], tuple[Values, float]]  # documents to vectors (documents, C) of length 1; seconds


# Documents of one kind, without special symbols, and their scores by vectors and the seed of a split: percent by task.
Collection = tuple[list[Ids], Callable[[Values, int], dict[str, float]]]


def measure(options: Options, cells: Cells) -> None:
    torch.set_num_threads(1)
    if options.books is None and options.imdb is None:
        raise UsageError("nothing to read: name a folder of books with --books, one with IMDB with --imdb, or both")
    source, collections = read(options.checkpoint), dict[str, Collection]()
    known, tokenizer = readers(options, source), tokenizer_of(source, None)
    if options.books is not None:
        books = read_books(options, tokenizer)
        for n in sorted(options.lengths):
            collections[f"Book passages of {n:,} tokens"] = passages(books, n, options)
    if options.imdb is not None:
        collections[f"IMDB reviews of more than {WORDS} words"] = reviews(options, tokenizer)
    for title, collection in collections.items():
        size, work = -(-len(collection[0]) // options.rounds), dict[str, Work]()
        files: dict[str, list[Path]] = {name: [] for name in known}
        for i, (name, reader) in product(range(options.rounds), known.items()):
            files[name].append(options.out / "vectors" / f"{title}, {name}, {i}.npy")
            documents = collection[0][i * size : (i + 1) * size]
            work[f"{title}, {name}, round {i}"] = partial(read_some, documents, reader, files[name][i])
        for name, reader in known.items():
            work[f"{title}, {name}"] = partial(score, title, name, collection, reader, files[name])
        cells.run(work)


def read_some(documents: list[Ids], reader: Reader, file: Path) -> dict[str, float]:
    """Keeps the vectors in a file."""
    vectors, seconds = reader(documents)
    with replace_when_done(file) as unfinished, unfinished.open("wb") as out:
        np.save(out, vectors)
    return {"documents/s": len(documents) / seconds}


def score(title: str, name: str, collection: Collection, reader: Reader, files: list[Path]) -> dict[str, Any]:
    """Scores of the vectors in the files, for each task a list over the seeds."""
    documents, scores_of = collection
    # The frequencies of TF-IDF are those of all documents.
    vectors = tf_idf(documents)[0] if reader is tf_idf else np.concatenate([np.load(file) for file in files])
    found = [scores_of(vectors, seed) for seed in SEEDS]
    tokens = sum(map(len, documents)) / len(documents) + SPECIAL
    scores = {task: [each[task] for each in found] for task in found[0]}
    return {"set": title, "reader": name, "documents": len(documents), "tokens": tokens, "scores": scores}


def read_books(options: Options, encoder: Encoder) -> list[tuple[str, Ids]]:
    """Author and tokens, without the ends, of each book that is long enough."""
    n, needed = options.max_positions, 2 * options.parts * options.max_positions
    if options.parts < 2:
        raise UsageError(f"--parts {options.parts}: must be at least 2, one to train on and one to test on")
    if max(options.lengths) > n or min(options.lengths) <= SPECIAL:
        raise UsageError(f"--lengths {' '.join(map(str, options.lengths))}: must lie between 3 and --max-positions {n}")
    authors = {file: file.stem.partition("__")[0] for file in sorted(options.books.glob("*.txt"))}
    counts, books = Counter(authors.values()), list[tuple[str, Ids]]()
    for file in sorted(authors, key=lambda file: counts[authors[file]] == 1):
        if len(books) < options.max_books:
            tokens = encoder.encode([file.read_text(encoding="utf-8", errors="replace")])[0].astype(np.int64)
            margin = int(len(tokens) * MARGIN)
            if len(tokens) - 2 * margin >= needed:
                books.append((authors[file], tokens[margin : len(tokens) - margin]))
    if len(books) < 2:
        remedy = f"must hold two .txt files of more than {needed:,} tokens; add books, or lower --max-positions"
        raise UsageError(f"--books {options.books}: {remedy}")
    return books


def passages(books: list[tuple[str, Ids]], length: int, options: Options) -> Collection:
    """Pairs of neighbouring passages of `length` tokens, from parts of each book that are far apart."""
    room, documents = length - SPECIAL, list[Ids]()
    for _, tokens in books:
        for start in np.linspace(0, len(tokens) - 2 * options.max_positions, options.parts, dtype=int):
            documents += [tokens[start : start + room], tokens[start + room : start + 2 * room]]
    book, part, half = (axis.ravel() for axis in np.indices((len(books), options.parts, 2)))
    authors = np.array([author for author, _ in books])
    several = [np.flatnonzero(authors == name) for name in np.unique(authors) if (authors == name).sum() > 1]

    def scores(vectors: Values, seed: int) -> dict[str, float]:
        chance = np.random.default_rng(seed)
        test = part == chance.integers(options.parts, size=len(books))[book]
        found = {"book": accuracy(vectors, book, ~test, test), "other half": halves_found(vectors, half, test)}
        if len(several) > 1:
            held = np.isin(book, [chance.choice(own) for own in several])
            rest = np.isin(book, np.concatenate(several)) & ~held
            found["author of another book"] = accuracy(vectors, authors[book], rest, held)
        return found

    return documents, scores


def reviews(options: Options, encoder: Encoder) -> Collection:
    """Long reviews of both files; the probe is trained on those of the first and tested on those of the second."""
    rows: list[tuple[Ids, str, bool]] = []
    for name in ("train.tsv", "test.tsv"):
        table = read_table(options.imdb / name, ["sentence"], "label")
        pairs = zip(table.texts, table.labels or (), strict=True)
        long = [(text, label) for (text,), label in pairs if len(text.split()) > WORDS]
        if len({label for _, label in long}) < 2:
            raise UsageError(f"{options.imdb / name}: must have reviews of more than {WORDS} words in two classes")
        for i in np.random.default_rng(0).permutation(len(long))[: options.reviews]:
            ids = encoder.encode([long[i][0]])[0].astype(np.int64)
            rows.append((ids[: options.max_positions - SPECIAL], long[i][1], name == "test.tsv"))
    documents, labels, tests = (list(column) for column in zip(*rows, strict=True))
    label, test = np.array(labels), np.array(tests)

    def scores(vectors: Values, seed: int) -> dict[str, float]:
        drawn = np.random.default_rng(seed).random(len(rows)) < 0.75
        return {"label": accuracy(vectors, label, drawn & ~test, drawn & test)}

    return documents, scores


def accuracy(vectors: Values, labels: Values, train: Values, test: Values) -> float:
    """Percent of the test part that a logistic regression gets right; C by cross-validation on the training part."""
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": C}, cv=2).fit(vectors[train], labels[train])
    return 100 * float(search.score(vectors[test], labels[test]))


def halves_found(vectors: Values, half: Values, test: Values) -> float:
    """How often the other half of a pair of the test part is the nearest of all such halves, from either side."""
    near = vectors[half == 0] @ vectors[half == 1].T
    asked = np.flatnonzero(test[half == 0])
    return 100 * float(np.mean([near.argmax(side)[asked] == asked for side in (0, 1)]))


def readers(options: Options, source: Checkpoint) -> dict[str, Reader]:
    """All readers by name."""
    n, longest = options.max_positions, encoder_config(source).max_positions
    found: dict[str, Reader] = {"TF-IDF": tf_idf}
    for name, tokens, keep in ORIGINAL:
        found[name] = partial(vectors_of, source, min(tokens, longest), keep)

    def add(name: str, model: Checkpoint, method: str = "tile", **settings: Any) -> None:
        found[name] = partial(vectors_of, longer(model, n, method, **settings), n, "head")

    for method in options.positions:
        add(f"{EXACT}, positions {STRETCHES[method]}", source, method)
    for window in options.local_window:
        for k in options.projected_length:
            add(f"converted, k = {k}, W = {window}", source, projected_length=str(k), local_window=window, **ADAPTIVE)
        if window:
            add(f"window alone, W = {window}", source, attention="local", local_window=window)
    for name, student in students(options.student, source):
        add(f"student, {name}", student)
    return found


def longer(source: Checkpoint, n: int, method: str, **settings: Any) -> Checkpoint:
    """The model for n tokens, with other attention if there are settings of it; new parameters are as they start."""
    made = source.converted(model=source.model | {"max_positions": n} | settings)
    made.state[POSITIONS] = resize_positions(source.state[POSITIONS], n, method)
    made.state = untrained(made.model, encoder_config(made).vocab_size).state_dict() | made.state
    return made


def vectors_of(model: Checkpoint, longest: int, keep: str, documents: Sequence[Ids]) -> tuple[Values, float]:
    """Means of the model's features over what is kept of each document, as `sequences.encode` has it."""
    engine, rows = Engine(model, "mean", Compute("cpu")), arrange([(ids,) for ids in documents], longest, keep)
    engine.run([rows.ids[0][:64]])  # the first call prepares kernels
    start = time.process_time()
    values = engine.rows(rows)
    seconds = time.process_time() - start
    return values / np.linalg.norm(values, axis=1, keepdims=True), seconds


def tf_idf(documents: Sequence[Ids]) -> tuple[Values, float]:
    """TF-IDF of one and two neighbouring tokens, by the frequencies in `documents`."""
    start = time.process_time()
    grams = TfidfVectorizer(analyzer=lambda ids: [*((i,) for i in ids), *pairwise(ids)], sublinear_tf=True)
    found = grams.fit_transform([ids.tolist() for ids in documents])
    seconds = time.process_time() - start
    # As few coordinates as there are documents: products, which alone matter, stay the same.
    values, directions = np.linalg.eigh((found @ found.T).toarray())
    return directions * np.sqrt(values.clip(0)), seconds


def table(results: Results) -> str:
    """A table for each collection, and below it what wins."""
    cells, text = results["cells"], study.heading("Long documents", results, ABOUT)
    for title in dict.fromkeys(result["set"] for result in cells.values() if "set" in result):
        own = {name: result for name, result in cells.items() if result.get("set") == title}
        speed = {name: median(run["documents/s"] for run in rounds_of(cells, name)) for name in own}
        exact = next(speed[name] for name in own if EXACT in name)
        rows = []
        for name, result in own.items():
            scores = map(study.spread, result["scores"].values())
            rows.append([result["reader"], *scores, f"{speed[name]:.2f}", f"{speed[name] / exact:.2f}"])
        text += f"## {title}\n\n{result['documents']} documents, {result['tokens']:,.0f} tokens on average.\n\n"
        text += markdown(["", *(f"{task}, %" for task in result["scores"]), "documents/s", "times exact"], rows) + "\n"
        for rival, who in ((CHUNKS, "Chunk means"), (TRUNCATED, "The truncated original")):
            text += f"{who}: {verdict([*own.values()], rival)}.\n\n"
    return text


def verdict(results: list[dict[str, Any]], rival: str) -> str:
    """Where the best of the rivals and of the models that read all differ by more than the wider of their ranges."""
    said: dict[str, list[str]] = {"win": [], "draw": [], "lose": []}
    for task in results[0]["scores"]:
        names = ([each for each in results if each["reader"].startswith(start)] for start in (rival, WHOLE))
        theirs, ours = (max((each["scores"][task] for each in side), key=median) for side in names)
        lead, range_ = median(theirs) - median(ours), max(max(side) - min(side) for side in (theirs, ours))
        result = "draw" if abs(lead) <= range_ else "win" if lead > 0 else "lose"
        said[result].append(f"{task} ({median(theirs):.1f} and {median(ours):.1f})")
    return "; ".join(f"{result} in {', '.join(tasks)}" for result, tasks in said.items() if tasks)


ABOUT = """Frozen vectors; medians of three splits, in brackets the least and the greatest. Book: which book a passage
is from, trained on other parts of it. Other half: the passage beside it is the nearest of all. Author of another book:
trained on the author's other books. TF-IDF is of the same tokens. Converted: adaptive projection, positions repeated,
not trained. Speed: one thread, processor time, without the tokenizer; times exact: beside the first exact row. Below
each table, the best reader of a kind beside the best converted one: a draw is within the wider of their ranges."""
FLAGS = [
    flag("checkpoint", Path, "the original, from `linformer convert from-bert ... --attention exact`"),
    flag("--books", about="folder of .txt files, one for each book", cells=True, type=Path),
    flag("--imdb", about="folder of train.tsv and test.tsv", cells=True, type=Path),
    flag("--student", [], "NAME=FILE: distilled checkpoints", cells=True),
    flag("--max-positions", 4096, "most tokens read", quick=512),
    flag("--lengths", [512, 2048, 4096], "of passages", quick=[256], cells=True),
    flag("--projected-length", [128, 256], cells=True),
    flag("--local-window", [0, 64], cells=True, least=0),
    flag("--positions", [*STRETCHES], "of exact attention", choices=[*STRETCHES], cells=True),
    flag("--max-books", 40, "those of authors with several come first", quick=4),
    flag("--parts", 3, "of a book, each with two passages", quick=2),
    flag("--reviews", 300, "at most of each file", quick=20),
    flag("--rounds", 3, "turns in which the documents are read", quick=1),
]
MEASUREMENT = study.Measurement(__file__, __doc__, FLAGS, measure, table)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
