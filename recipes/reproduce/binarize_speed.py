"""Speed of `data_prep binarize` beside sentencepiece followed by fairseq-preprocess, and beside sentencepiece alone.

    python recipes/reproduce/binarize_speed.py doc=wikipedia/ books=books/ --out docs/benchmarks/data_prep/binarize.md

Every way is a process of its own, from the start of Python to its last file; all take turns on the same documents with
the same tokenizer, and the medians of the rounds are printed as a Markdown table. What sentencepiece alone takes is the
time within its encode function, the bound for everybody.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]

# argv: model, text, threads, file of pieces or nothing. Prints the tokens and the seconds within encode.
ENCODE = """
import sys, time, sentencepiece
model, text, threads, out = sys.argv[1:]
processor = sentencepiece.SentencePieceProcessor(model_file=model)
lines = open(text, encoding="utf-8").read().split("\\n")
tokens, seconds, file = 0, 0.0, open(out, "w", encoding="utf-8") if out else None
for begin in range(0, len(lines), 10_000):
    batch = lines[begin : begin + 10_000]
    start = time.perf_counter()
    encoded = processor.encode(batch, num_threads=int(threads), out_type=str if out else int)
    seconds += time.perf_counter() - start
    tokens += sum(map(len, encoded))
    if file:
        file.writelines(" ".join(pieces) + "\\n" for pieces in encoded)
print(tokens, seconds)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "text", nargs="+", metavar="SOURCE=PATH", help="input of `data_prep extract`; a bare PATH is a source text"
    )
    parser.add_argument("--vocab-size", type=int, default=32000, help="of the tokenizer (default: 32000)")
    parser.add_argument("--copies", type=int, default=1, help="how often the text is taken (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="processes or threads of each way (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is measured (default: 3)")
    parser.add_argument("--out", type=Path, help="file for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = measure(Path(folder), args.text * args.copies, args.vocab_size, args.workers, args.rounds)
    print(table)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(table + "\n", encoding="utf-8")


def measure(folder: Path, inputs: list[str], vocab_size: int, workers: int, rounds: int) -> str:
    """Prepares the documents, measures each way in turns, and returns the table."""
    corpus, split, tokenizer = folder / "corpus", folder / "split", folder / "tokenizer"
    for number, text in enumerate(inputs):
        source, _, path = text.rpartition("=")
        data_prep("extract", "--source", source or "text", path, "--name", f"input{number}", "--out", corpus)
    data_prep("split", corpus, "--out", split, "--workers", workers)
    data_prep("tokenizer", split / "train", "--out", tokenizer, "--vocab-size", vocab_size)
    model = tokenizer / "sentencepiece.model"
    lines = {name: write_lines(split / name, folder / f"{name}.txt") for name in ("train", "valid")}

    tokens = 0
    inside: list[float] = []

    def encode(name: str, threads: int, pieces: str = "") -> float:
        output = run(sys.executable, "-c", ENCODE, model, lines[name], threads, pieces)
        nonlocal tokens
        found, seconds = output.split()
        tokens += int(found)
        return float(seconds)

    def alone() -> None:
        nonlocal tokens
        tokens = 0
        inside.append(sum(encode(name, workers) for name in lines))

    def binarize(processes: int) -> None:
        out = folder / "data"
        data_prep("binarize", split, "--tokenizer", tokenizer, "--out", out, "--workers", processes)
        shutil.rmtree(out)

    def pipeline() -> None:
        for name in lines:
            encode(name, workers, str(folder / f"{name}.pieces"))
        out = folder / "preprocessed"
        prefs = [f"--{name}pref={folder / name}.pieces" for name in lines]
        command = str(Path(sys.executable).with_name("fairseq-preprocess"))
        run(
            command,
            "--only-source",
            "--srcdict",
            tokenizer / "dict.txt",
            *prefs,
            "--workers",
            workers,
            "--destdir",
            out,
        )
        shutil.rmtree(out)

    ways: dict[str, Callable[[], None]] = {
        f"sentencepiece alone, {workers} threads, encode only": alone,
        f"data_prep binarize, {workers} workers": lambda: binarize(workers),
        "data_prep binarize, 1 worker": lambda: binarize(1),
        f"sentencepiece to pieces, then fairseq-preprocess, {workers} workers": pipeline,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    bar = tqdm(total=rounds * len(ways), unit="run")
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(inside[-1] if way is alone else time.perf_counter() - start)
            if way is alone:
                total = tokens
            bar.update()
    bar.close()
    return table_of(seconds, total, sum(path.stat().st_size for path in lines.values()))


def table_of(seconds: dict[str, list[float]], tokens: int, size: int) -> str:
    """The Markdown table: medians, and what the first way is to the others."""
    middle = {name: median(times) for name, times in seconds.items()}
    bare, ours, one, slow = middle.values()
    rows = [
        f"| {name} | {value:.2f} ({min(seconds[name]):.2f}-{max(seconds[name]):.2f}) | {tokens / value / 1e6:.2f} |"
        for name, value in middle.items()
    ]
    rounds = len(next(iter(seconds.values())))
    return "\n".join(
        [
            f"{size / 1e6:.1f} MB of text, {tokens / 1e6:.2f} M tokens; medians of {rounds} rounds (lowest-highest).",
            "",
            "| way | seconds | M tokens/s |",
            "|---|---|---|",
            *rows,
            "",
            f"binarize is {slow / ours:.1f} times as fast as the pipeline through pieces, reaches {bare / ours:.0%} of "
            f"sentencepiece alone, and is {one / ours:.2f} times as fast as with one worker.",
        ]
    )


def data_prep(*arguments: object) -> None:
    """One command of data_prep."""
    run(sys.executable, "-m", "data_prep", *arguments)


def run(*command: object) -> str:
    """Output of a command; what it says of its progress is shown only if it fails."""
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr}")
    return done.stdout


def write_lines(corpus: Path, path: Path) -> Path:
    """The paragraphs of a corpus, one a line, with an empty line between documents, as fairseq-preprocess wants it."""
    from data_prep.corpus import corpus_files, read_file

    with path.open("w", encoding="utf-8") as file:
        for part in corpus_files(corpus):
            file.writelines(f"{document.text}\n\n" for document in read_file(part))
    return path


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
