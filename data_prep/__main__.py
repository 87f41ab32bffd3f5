"""The command line: ``python -m data_prep STAGE …``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.stage import DataPrepError

_EXAMPLES = """\
examples:
  python -m data_prep extract --source docstrings --out corpus
  python -m data_prep extract --source books my_books/ more.tar.xz --out corpus
  python -m data_prep tokenizer corpus --out tokenizer --vocab-size 32000
  python -m data_prep binarize corpus --tokenizer tokenizer --out data --workers 8
then:
  fairseq-train data --task masked_lm --user-dir linformer_fairseq …

Every stage can be stopped and started again; where its output is finished, it says so and does nothing.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one stage; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments)
    except DataPrepError as error:
        print(f"data_prep {arguments.stage}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ndata_prep {arguments.stage}: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    # Stages are imported when they run: fairseq alone takes seconds, which --help need not wait for.
    if arguments.stage == "extract":
        from data_prep.extract import extract

        extract(arguments.source, arguments.inputs, arguments.out, arguments.workers)
    elif arguments.stage == "tokenizer":
        from data_prep.tokenizer import train_tokenizer

        train_tokenizer(arguments.corpus, arguments.out, arguments.vocab_size, arguments.model)
    else:
        from data_prep.binarize import binarize

        binarize(
            arguments.corpus,
            arguments.tokenizer,
            arguments.out,
            valid_fraction=arguments.valid_fraction,
            workers=arguments.workers,
            max_item_tokens=arguments.max_item_tokens,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep",
        description="Raw text to fairseq training data, in stages.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")

    extract = stages.add_parser("extract", help="text of any source to Parquet shards")
    extract.add_argument(
        "--source",
        required=True,
        choices=("docstrings", "doc", "books", "text"),
        help="docstrings: of the installed Python packages (no IN needed). doc: wikiextractor's <doc> files. "
        "books: a document per .txt/.md file, its paragraphs separated by empty lines. text: the same, but "
        "every line is a paragraph",
    )
    extract.add_argument("inputs", nargs="*", type=Path, metavar="IN", help="files, folders or tar archives")
    extract.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the corpus")
    extract.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")

    tokenizer = stages.add_parser("tokenizer", help="train sentencepiece; write the dict.txt that fits it")
    tokenizer.add_argument("corpus", type=Path, help="folder made by extract")
    tokenizer.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the tokenizer")
    tokenizer.add_argument(
        "--vocab-size",
        type=int,
        default=32000,
        metavar="N",
        help="size of fairseq's dictionary with special symbols and <mask>; a multiple of 64 (default 32000)",
    )
    tokenizer.add_argument("--model", choices=("unigram", "bpe"), default="unigram", help="default unigram")

    binarize = stages.add_parser("binarize", help="Parquet shards to fairseq's .bin/.idx")
    binarize.add_argument("corpus", type=Path, help="folder made by extract")
    binarize.add_argument("--tokenizer", required=True, type=Path, metavar="DIR", help="made by tokenizer")
    binarize.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for fairseq-train")
    binarize.add_argument(
        "--valid-fraction",
        type=float,
        default=0.01,
        metavar="F",
        help="share of the documents kept for validation, chosen by their hash (default 0.01)",
    )
    binarize.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    binarize.add_argument(
        "--max-item-tokens",
        type=int,
        default=510,
        metavar="N",
        help="longer paragraphs are cut; at most fairseq's --tokens-per-sample minus 2 (default 510)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
