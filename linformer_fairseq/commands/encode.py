"""Turn documents into vectors, or into the predictions of a fine-tuned checkpoint.

    linformer encode --checkpoint checkpoint_best.pt --input docs.parquet --text-column text --out out.parquet
    linformer encode --checkpoint tuned/model.pt --predict --input docs/ --keep-columns id --out out.parquet

The output is a Parquet file with a row for each row of the input, in its order: the columns to keep, and `vector`, a
list of fixed size, the mean of the last layer over the tokens. With --predict it has `label` and `scores`, the
probability of each class (or `score`, of a regression). A row without text has null. The input may be larger than
memory. Several commands with the same --out, such as the tasks of a Slurm array, share the work. The same command
resumes after a kill; a finished output is left alone.

A document's values do not depend on its neighbours: batches are length-bucketed, and padding is masked. In float32
they agree with those of the document alone to about 1e-6, in bfloat16 to its rounding.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from linformer_fairseq.commands.arguments import command_parser, shared_flags, text_columns
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference import DTYPES, KEEPS, POOLINGS, VECTOR_DTYPES
from linformer_fairseq.io.files import check_target
from linformer_fairseq.ranges import PROCESSES, TOKENS, whole


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    shared = shared_flags("--checkpoint", "--data", "--text-column", "--quoted", "--keep", "--force")
    top = command_parser("encode", __doc__, parents=[shared])
    files = ".parquet, .tsv, .csv, .jsonl, or a folder of .parquet files"
    top.add_argument("--input", type=Path, nargs="+", required=True, metavar="FILE", help=files)
    top.add_argument("--keep-columns", nargs="+", default=[], metavar="NAME", help="columns to carry over")
    top.add_argument("--out", type=Path, required=True, metavar="PARQUET", help="parts go to a hidden folder beside it")

    what = top.add_argument_group("what is computed")
    what.add_argument("--predict", action="store_true", help="labels and scores of a fine-tuned checkpoint")
    what.add_argument("--pooling", choices=POOLINGS, help="of tokens (default: as trained on pairs, or mean)")
    what.add_argument("--vectors", choices=VECTOR_DTYPES, default="float32", help="their type (default: float32)")

    how = top.add_argument_group("how it is computed")
    how.add_argument("--workers", type=whole(1, PROCESSES), default=1, metavar="N", help="processes (default: 1)")
    how.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")
    how.add_argument(
        "--threads", type=whole(1, PROCESSES), metavar="N", help="of each process (default: its share of the cores)"
    )
    dtypes = "bfloat16: by autocast, in float16 on a GPU without bfloat16 (default: float32)"
    how.add_argument("--dtype", choices=DTYPES, default="float32", help=dtypes)
    how.add_argument("--quantize", action="store_true", help="linear layers in 8-bit integers, on a CPU")
    compiled = "by torch.compile, for long runs: it takes up to two minutes to start"
    how.add_argument("--compile", action="store_true", help=compiled)
    tokens = "in a batch, padding included (default: 8192; on a GPU: 65536)"
    how.add_argument("--batch-tokens", type=whole(1, TOKENS), metavar="N", help=tokens)
    window = "documents batched and written together; a kill loses at most these (default: %(default)s)"
    how.add_argument("--window", type=whole(1, 2**20), default=4096, metavar="N", help=window)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Check everything, and compute what is missing; returns the exit status."""
    a = parser().parse_args(argv)
    text = _check(a)

    import torch

    from linformer_fairseq.checkpoints.checkpoint import digest, encoder_config, read
    from linformer_fairseq.checkpoints.folders import as_file
    from linformer_fairseq.inference.documents import Documents, find_files
    from linformer_fairseq.inference.encoding import EncodingJob, encode_documents
    from linformer_fairseq.inference.engine import Compute, check_compute
    from linformer_fairseq.inference.predict import labels_of
    from linformer_fairseq.inference.sequences import dictionary_digest, tokenizer_of
    from linformer_fairseq.io.records import names_and_sizes

    documents = Documents(find_files(a.input), text, tuple(a.keep_columns), a.quoted)
    documents.schema()  # checked before anything is computed
    print_as, a.checkpoint = a.checkpoint, as_file(a.checkpoint)
    checkpoint = read(a.checkpoint)
    compute = Compute(a.device, a.dtype, a.quantize, a.compile, a.batch_tokens)
    device = check_compute(compute)
    a.pooling = a.pooling or checkpoint.pooling or "mean"
    a.keep = labels_of(checkpoint, len(text)).keep if a.predict else a.keep or "head"
    tokenizer_of(checkpoint, a.data)
    without_effect = ("out", "force", "workers", "device", "threads", "compile", "batch_tokens")
    settings = {
        **{f"--{name.replace('_', '-')}": value for name, value in vars(a).items() if name not in without_effect},
        "--checkpoint": digest(checkpoint.state),
        "--data": dictionary_digest(a.data or checkpoint.data),
        "--input": names_and_sizes(documents.files),
    }
    print(f"{print_as} on {device}, {a.dtype}{', 8-bit integers' if a.quantize else ''}")
    threads = a.threads or max(1, torch.get_num_threads() // a.workers)
    what = a.predict, a.pooling, a.keep, a.vectors
    job = EncodingJob(a.checkpoint, a.data, documents, *what, compute, threads, a.window, a.workers)
    counts = encode_documents(job, a.out, settings, a.force)
    words = [f"{counts['documents']:,} documents", f"{counts['tokens']:,} tokens"]
    if counts["without_text"]:
        words.append(f"{counts['without_text']:,} without text (null)")
    if counts["longer"]:
        longest = encoder_config(checkpoint).max_positions
        words.append(f"{counts['longer']:,} longer than the model's {longest:,} tokens ({KEEPS[a.keep]})")
    print(f"{a.out}: {', '.join(words)}")
    return 0


def _check(a: argparse.Namespace) -> tuple[str, ...]:
    """Check what the command line alone tells, and return the columns of text."""
    text = text_columns(a)
    check_target(a.out, force=True)
    for path in a.input:
        if path.resolve() in (a.out.resolve(), *a.out.resolve().parents):
            where = "lies in" if path.is_dir() else "would replace"
            raise UsageError(f"--out {a.out}: {where} --input {path}, and would be read as input; choose another place")
    if a.keep == "chunks" and len(text) == 2:
        raise UsageError("--keep chunks: is for one text a row; with two, choose head or head-tail")
    computed = ("label", "scores", "score") if a.predict else ("vector",)
    for name in a.keep_columns:
        if name in computed or a.keep_columns.count(name) > 1:
            raise UsageError(f"--keep-columns {name}: the output would have two columns of this name; rename one")
    for flag in ("pooling", "keep"):
        if a.predict and getattr(a, flag):
            raise UsageError(f"--{flag}: with --predict, the checkpoint determines it; leave it out")
    return text
