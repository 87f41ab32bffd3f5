"""Turns documents into vectors, or into the predictions of a fine-tuned checkpoint.

    python recipes/encode.py --checkpoint checkpoint_best.pt --input docs.parquet --text-column text --out out.parquet
    python recipes/encode.py --checkpoint tuned/model.pt --predict --input docs/ --keep-columns id --out out.parquet

The output is a Parquet file with a row for each of the input, in its order: the columns to keep, and `vector`, a list
of one size, the mean of the last layer over the real tokens. With --predict it has `label` and `scores`, the
probability of each class (or `score`, of a regression). A row without text has null. Inputs may be larger than the
memory. A command that was killed goes on where it was when it is started again; a finished output is left alone.

A document's values do not depend on its neighbours: batches hold documents of like length, and pads are masked. In
float32 they agree with those of the document alone to about 1e-6, in bfloat16 to its rounding.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, digest, encoder_config, read
from linformer_fairseq.commands.arguments import command_parser
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.predict import HEAD, labels_of
from linformer_fairseq.inference.columns import FLOATS, predictions, vectors
from linformer_fairseq.inference.engine import DTYPES, POOLINGS, Compute, Engine, device_of
from linformer_fairseq.inference.inputs import Inputs, find_files
from linformer_fairseq.inference.parts import Output
from linformer_fairseq.inference.tokenizer import dictionary_digest, tokenizer_of
from linformer_fairseq.inference.work import Recipe, do
from linformer_fairseq.io.files import fingerprint


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    run(parser().parse_args(argv))
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("encode", __doc__)
    top.add_argument("--checkpoint", type=Path, required=True, help=".pt of fairseq, or .safetensors")
    top.add_argument(
        "--input", type=Path, nargs="+", required=True, metavar="FILE", help=".parquet, .tsv, .csv, .jsonl, or a folder"
    )
    top.add_argument("--text-column", nargs="+", default=["text"], metavar="NAME", help="one or two (default: text)")
    top.add_argument("--keep-columns", nargs="+", default=[], metavar="NAME", help="columns to carry over")
    top.add_argument(
        "--out", type=Path, required=True, metavar="PARQUET", help="parts are in a hidden folder beside it"
    )
    top.add_argument("--force", action="store_true", help="start anew over an output of other settings")
    top.add_argument("--data", type=Path, metavar="DIR", help="folder of its tokenizer (default: as pretrained)")
    top.add_argument("--quoted", action="store_true", help='in TSV files, too, " encloses a field')

    what = top.add_argument_group("what is computed")
    what.add_argument("--predict", action="store_true", help="labels and scores of a fine-tuned checkpoint")
    what.add_argument("--pooling", choices=POOLINGS, help="of the real tokens' vectors (default: mean)")
    what.add_argument(
        "--long",
        choices=("head", "chunks"),
        help="of documents longer than the model reads: the head (default), or chunks of equal length, whose vectors "
        "are averaged by their tokens (with --pooling max: the largest); with --predict, as it was fine-tuned",
    )
    what.add_argument("--vectors", choices=FLOATS, default="float32", help="how they are stored (default: float32)")

    how = top.add_argument_group("how it is computed")
    how.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    how.add_argument("--threads", type=int, metavar="N", help="on a CPU (default: its cores, or OMP_NUM_THREADS)")
    how.add_argument("--dtype", choices=DTYPES, default="float32", help="bfloat16: by autocast (default: float32)")
    how.add_argument("--quantize", action="store_true", help="linear layers in 8-bit integers, on a CPU")
    how.add_argument(
        "--compile",
        action="store_true",
        help="by torch.compile, once for all lengths: costs up to a minute or two at the start, a few variants in all, "
        "and needs a C++ compiler; rather for GPUs and long runs",
    )
    how.add_argument(
        "--batch-tokens", type=int, metavar="N", help="in a batch, pads counted (default: 8192; GPU: 65536)"
    )
    how.add_argument(
        "--window",
        type=int,
        default=4096,
        metavar="N",
        help="documents that are sorted by length and written together; a killed command repeats at most these "
        "(default: %(default)s)",
    )
    return top


def run(a: argparse.Namespace) -> None:
    """Checks everything, and computes what is missing."""
    _check(a)
    inputs = Inputs(find_files(a.input), tuple(a.text_column), tuple(a.keep_columns), a.quoted)
    inputs.schema()
    checkpoint = read(a.checkpoint)
    compute = Compute(a.device, a.dtype, a.quantize, a.compile, a.batch_tokens)
    device = device_of(compute)
    recipe = _recipe(a, checkpoint)
    output = Output(a.out, _settings(a, checkpoint, recipe, inputs), a.force)
    if output.finished:
        shutil.rmtree(output.folder, ignore_errors=True)  # where it was killed while it was tidying up
        print(f"{a.out}: already finished; {_in_words(output, recipe)}")
        return
    total = inputs.count()
    if a.threads:
        torch.set_num_threads(a.threads)
    print(f"{a.checkpoint} on {device}, {a.dtype}{', 8-bit integers' if a.quantize else ''}: {total:,} documents")
    engine = Engine(checkpoint, HEAD if a.predict else a.pooling or "mean", compute)
    with output.opened(a.force):
        documents, tokens = do(inputs, recipe, engine, output, total, a.window)
    print(f"{a.out}: {_in_words(output, recipe)}; {documents:,.1f} documents/s, {tokens:,.0f} tokens/s")


def _check(a: argparse.Namespace) -> None:
    """What the command line alone tells.

    Raises:
        UsageError: flags that do not go together.
    """
    made = ("label", "scores", "score") if a.predict else ("vector",)
    if len(a.text_column) > 2:
        raise UsageError(f"--text-column: one or two columns, not {len(a.text_column)}")
    if a.long == "chunks" and len(a.text_column) == 2:
        raise UsageError("--long chunks: is for one text a row; with two, leave it out")
    for name in a.keep_columns:
        if name in made or a.keep_columns.count(name) > 1:
            raise UsageError(
                f"--keep-columns {name}: the output would have two columns of this name; rename or drop one"
            )
    for flag in ("pooling", "long"):
        if a.predict and getattr(a, flag):
            raise UsageError(f"--{flag}: is for vectors; with --predict the checkpoint says it, so leave it out")
    for flag in ("threads", "batch_tokens", "window"):
        value = getattr(a, flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {value}: must be at least 1")


def _recipe(a: argparse.Namespace, checkpoint: Checkpoint) -> Recipe:
    longest = encoder_config(checkpoint).max_positions
    encoder = tokenizer_of(checkpoint, a.data)
    if not a.predict:
        return Recipe(
            encoder, longest, a.long or "head", lambda v, p: vectors(v, p, a.vectors), largest=a.pooling == "max"
        )
    labels = labels_of(checkpoint)
    if labels.columns != len(a.text_column):
        raise UsageError(f"--text-column: the checkpoint reads {labels.columns} texts a row, not {len(a.text_column)}")
    return Recipe(encoder, longest, labels.keep, lambda v, p: predictions(v, p, labels.classes), weighted=False)


def _settings(a: argparse.Namespace, checkpoint: Checkpoint, recipe: Recipe, inputs: Inputs) -> dict[str, Any]:
    """All that the output depends on but for rounding; the keys are the flags."""
    return {
        "--checkpoint": digest(checkpoint.state),
        "--data": dictionary_digest(a.data or checkpoint.data),
        "--input": [fingerprint(path) for path in inputs.files],
        "--text-column": inputs.text,
        "--keep-columns": inputs.keep,
        "--predict": a.predict,
        "--pooling": a.pooling or "mean",
        "--long": recipe.keep,
        "--vectors": a.vectors,
        "--dtype": a.dtype,
        "--quantize": a.quantize,
        "--window": a.window,
        "--quoted": a.quoted,
    }


def _in_words(output: Output, recipe: Recipe) -> str:
    counts = output.counts
    taken = {"head": "the head of them", "chunks": "all of them, in chunks", "head-tail": "head and tail of them"}
    words = [f"{counts['documents']:,} documents", f"{counts['tokens']:,} tokens"]
    if counts["without text"]:
        words.append(f"{counts['without text']:,} without text, null there")
    if counts["longer"]:
        words.append(f"{counts['longer']:,} longer than the model's {recipe.longest:,} tokens, {taken[recipe.keep]}")
    return ", ".join(words)
