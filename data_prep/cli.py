"""The arguments of ``python -m data_prep``: one subcommand per stage, and ``run`` for all of them.

Defaults are those of the dataclasses in ``config.py``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from data_prep.config import BinarizeConfig, DecontaminateConfig, SplitConfig, TokenizerConfig, shipped
from data_prep.corpus import FILE_CHARACTERS

_EXAMPLES = """\
everything at once, from a YAML file or a configuration that comes along ({shipped}):
  python -m data_prep run folder input=my_texts --out data-run --workers 8
  python -m data_prep run wikipedia_books --out data-run --workers 32
or stage by stage:
  python -m data_prep download simple --out dumps
  python -m data_prep extract --source wikipedia dumps/*.bz2 --out corpus --workers 8
  python -m data_prep clean corpus --out clean --workers 8
  python -m data_prep dedup clean --out dedup --workers 8
  python -m data_prep split dedup --out split
  python -m data_prep tokenizer split/train --out tokenizer --vocab-size 32000
  python -m data_prep binarize split --tokenizer tokenizer --out data --workers 8
  python -m data_prep inspect data
then:
  fairseq-train data --task masked_lm --user-dir linformer_fairseq …

Every command can be killed and started again, and goes on with the first shard that is not finished; where its
output is finished, it says so and does nothing. Several of them, on one machine or many, share the work if
they have the same --out: slurm/prepare_data.sh is such an array.
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m data_prep",
        description="Raw text to fairseq training data, in stages.",
        epilog=_EXAMPLES.format(shipped=", ".join(shipped())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stages = top.add_subparsers(dest="stage", required=True, metavar="STAGE")

    run = _stage(stages, "run", "all stages of a configuration")
    run.add_argument("config", metavar="CONFIG", help=f"a YAML file, or one of {', '.join(shipped())}")
    run.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="settings to change: tokenizer.vocab_size=8192")
    run.add_argument("--redo", metavar="STAGE", help="delete what this stage and all behind it made, and make it again")
    _out(run, "folder of the run, a folder in it per stage")

    download = _stage(stages, "download", "fetch the latest dump of a Wikipedia, resumable, checksum checked")
    download.add_argument("language", help="its code, as in simple.wikipedia.org")
    download.add_argument("--mirror", metavar="URL", help="another server with the layout of dumps.wikimedia.org")
    download.add_argument("--date", default="latest", metavar="YYYYMMDD", help="of the dump (default: the newest)")
    _out(download, "folder for the dump", workers=False)

    extract = _stage(stages, "extract", "text of any source to Parquet files")
    extract.add_argument(
        "--source",
        required=True,
        choices=("wikipedia", "doc", "text", "books", "jsonl", "parquet", "docstrings"),
        help="wikipedia: MediaWiki XML dumps. doc: wikiextractor's <doc> files. text: a document per .txt/.md file, "
        "a paragraph per line. books: the same, paragraphs separated by empty lines, and .epub. jsonl: a document per "
        "line. parquet: a document per row, Arrow files too. docstrings: of installed Python packages (no IN needed). "
        "Compressed files (.gz .bz2 .xz .zst) and tar archives are read as they are",
    )
    extract.add_argument("inputs", nargs="*", metavar="IN", help="files, folders, archives; - is standard input")
    extract.add_argument("--text-column", metavar="NAME", help="column of jsonl or parquet (default: text)")
    extract.add_argument("--name", help="what the names of its files begin with (default: the source)")
    extract.add_argument(
        "--on-error",
        default="stop",
        help="stop at input that cannot be read (default), or skip it, counted and listed in extract-NAME.json",
    )
    extract.add_argument(
        "--file-characters",
        type=int,
        default=FILE_CHARACTERS,
        metavar="N",
        help=f"in one Parquet file, the unit of work of later stages (default {FILE_CHARACTERS:,})",
    )
    _out(extract, "folder of the corpus")

    clean = _stage(stages, "clean", "repair Unicode, remove boilerplate, drop documents that are no prose")
    dedup = _stage(stages, "dedup", "drop exact and near duplicates")
    decontaminate = _stage(stages, "decontaminate", "drop documents with examples of a benchmark's dev or test files")
    split = _stage(stages, "split", "train, valid and test, by the hash of each document")
    for stage in (clean, dedup, decontaminate, split):
        stage.add_argument("corpus", type=Path, help="folder of Parquet files, made by the stage before")
        _out(stage, "folder of the result")
    for stage, name in ((clean, "clean"), (dedup, "dedup")):
        stage.add_argument("--config", default="folder", help=f"configuration whose section {name} is used")
    decontaminate.add_argument(
        "--benchmarks", nargs="+", required=True, metavar="DIR", help="folders of GLUE, IMDB, … as downloaded"
    )
    for name in ("valid", "test"):
        share = getattr(SplitConfig(), name)
        split.add_argument(f"--{name}", type=float, default=share, metavar="F", help=f"its share (default {share})")

    tokenizer = _stage(stages, "tokenizer", "train sentencepiece, or import a tokenizer; dict.txt fits it")
    tokenizer.add_argument("corpus", type=Path, nargs="?", help="folder of Parquet files: split/train")
    defaults = TokenizerConfig()
    tokenizer.add_argument(
        "--vocab-size",
        type=int,
        default=defaults.vocab_size,
        metavar="N",
        help="size of fairseq's dictionary with special symbols and <mask>; a multiple of 64 (default %(default)s)",
    )
    tokenizer.add_argument("--model", choices=("unigram", "bpe"), default=defaults.model, help="default %(default)s")
    tokenizer.add_argument(
        "--import",
        dest="existing",
        type=Path,
        metavar="PATH",
        help="instead of training: a sentencepiece .model, or a folder with encoder.json and vocab.bpe",
    )
    _out(tokenizer, "folder of the tokenizer", workers=False)

    binarize = _stage(stages, "binarize", "Parquet files to fairseq's .bin/.idx")
    binarize.add_argument("corpus", type=Path, help="folder made by split")
    binarize.add_argument("--tokenizer", required=True, type=Path, metavar="DIR", help="folder made by tokenizer")
    shape = BinarizeConfig()
    binarize.add_argument(
        "--max-item-tokens",
        type=int,
        default=shape.max_item_tokens,
        metavar="N",
        help="longer paragraphs are cut; at most fairseq's --tokens-per-sample minus 2 (default %(default)s)",
    )
    binarize.add_argument(
        "--shards", type=int, default=shape.shards, metavar="N", help="folders to join by colons (default %(default)s)"
    )
    _out(binarize, "folder for fairseq-train")

    inspect = _stage(stages, "inspect", "show random documents or decoded blocks, coverage and lengths")
    inspect.add_argument("folder", type=Path, metavar="DIR", help="a run, a corpus, or binarised data")
    inspect.add_argument("--samples", type=int, default=3, metavar="N", help="how many to show (default %(default)s)")
    inspect.add_argument("--seed", type=int, default=1, help="which ones (default %(default)s)")
    return top


def run_stage(arguments: argparse.Namespace) -> None:
    """Runs what the arguments say. Stages are imported when they run, so that --help does not wait for them."""
    a = arguments
    if getattr(a, "workers", 1) < 1:
        from linformer_fairseq.errors import UsageError

        raise UsageError(f"--workers {a.workers}: must be at least 1")
    if a.stage == "run":
        from data_prep.run import run

        run(a.config, a.changes, a.out, a.workers, a.redo)
    elif a.stage == "download":
        from data_prep.download import MIRROR, download

        download(a.language, a.out, a.mirror or MIRROR, a.date)
    elif a.stage == "extract":
        from data_prep.extract import extract

        options = {"name": a.name, "text_column": a.text_column, "on_error": a.on_error}
        extract(a.source, a.inputs, a.out, **options, file_characters=a.file_characters, workers=a.workers)
    elif a.stage == "clean":
        from data_prep.config import load_section
        from data_prep.filters import clean

        clean(a.corpus, a.out, load_section(a.config, "clean"), a.workers)
    elif a.stage == "dedup":
        from data_prep.config import load_section
        from data_prep.dedup import dedup

        dedup(a.corpus, a.out, load_section(a.config, "dedup"), a.workers)
    elif a.stage == "decontaminate":
        from data_prep.filters import decontaminate

        decontaminate(a.corpus, a.out, DecontaminateConfig(a.benchmarks), a.workers)
    elif a.stage == "split":
        from data_prep.split import split

        split(a.corpus, a.out, SplitConfig(a.valid, a.test), a.workers)
    elif a.stage == "tokenizer":
        from data_prep.tokenizer import make_tokenizer

        config = replace(TokenizerConfig(), vocab_size=a.vocab_size, model=a.model)
        make_tokenizer(a.corpus, a.out, replace(config, existing=a.existing and str(a.existing)))
    elif a.stage == "binarize":
        from data_prep.binarize import binarize

        binarize(a.corpus, a.tokenizer, a.out, BinarizeConfig(a.max_item_tokens, a.shards), a.workers)
    else:
        from data_prep.inspect import inspect

        inspect(a.folder, a.samples, a.seed)


def _stage(
    stages: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    return stages.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")


def _out(stage: argparse.ArgumentParser, text: str, workers: bool = True) -> None:
    stage.add_argument("--out", required=True, type=Path, metavar="DIR", help=text)
    if workers:
        stage.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
