"""The arguments of `python -m data_prep`: a subcommand per stage, and `run` for all of them.

The flags of settings come from the classes in `config.py`. A stage is imported only when it runs.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from data_prep import config
from data_prep.config import add_flags, as_changes, bundled, from_flags
from linformer_fairseq.io import pool, records
from linformer_fairseq.io.files import check_folder
from linformer_fairseq.ranges import PROCESSES, whole

_EPILOG = """\
everything at once, from a YAML file or a bundled configuration ({bundled}):
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

Every command can be killed at any time; started again, it resumes with the first unfinished shard. A command whose
output is finished says so and does nothing. Several commands with the same --out, on one machine or many, share the
work: slurm/prepare_data.sh is such an array.
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    top = parser()
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, rest = top.parse_known_args(as_changes(words) if words[:1] == ["run"] else words)
    # argparse takes KEY=VALUE only directly after CONFIG; people also write it after --out.
    if arguments.stage == "run" and all("=" in word and not word.startswith("-") for word in rest):
        arguments.changes += rest
    elif rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m data_prep",
        description="Raw text to fairseq training data, in stages.",
        epilog=_EPILOG.format(bundled=", ".join(bundled())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stages = top.add_subparsers(dest="stage", required=True, metavar="STAGE")

    def stage(name: str, text: str, out: str = "output folder") -> argparse.ArgumentParser:
        command = stages.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if "out" in _STAGES[name]:
            command.add_argument("--out", required=True, type=Path, metavar="DIR", help=out)
        if "out" in _STAGES[name] and name != "download":
            verify = "read what is finished and make again what is not what was written (else: by size and time)"
            command.add_argument("--verify", action="store_true", help=verify)
        if "workers" in _STAGES[name]:
            command.add_argument(
                "--workers", type=whole(1, PROCESSES), default=1, metavar="N", help="processes (default %(default)s)"
            )
            cluster = "run on the workers of this scheduler of Dask instead, such as tcp://node1:8786"
            command.add_argument("--cluster", metavar="ADDRESS", help=cluster)
        return command

    run = stage("run", "all stages of a configuration", "folder of the run, with a folder for each stage")
    run.add_argument("config", metavar="CONFIG", help=f"a YAML file, or one of {', '.join(bundled())}")
    run.add_argument(
        "changes",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings to change: tokenizer.vocab_size=8192, or as flags of the stages: --vocab-size 8192",
    )
    run.add_argument("--redo", metavar="STAGE", help="first delete the output of this stage and of all later ones")

    download = stage("download", "fetch a Wikipedia dump, resumable and verified by checksum", "folder for the dump")
    download.add_argument("language", help="language code, as in simple.wikipedia.org")
    add_flags(download, config.DownloadConfig)

    extract = stage("extract", "text of any source to Parquet files", "folder of the corpus")
    extract.add_argument(
        "inputs", nargs="*", metavar="IN", help="files, folders, archives, s3://…; - is standard input"
    )
    add_flags(extract, config.SourceConfig)
    add_flags(extract, config.ReadingConfig)

    clean = stage("clean", "repair Unicode, remove boilerplate, drop documents that are not prose")
    dedup = stage("dedup", "drop exact and near duplicates")
    decontaminate = stage("decontaminate", "take the dev and test examples of a benchmark out of documents")
    split = stage("split", "train, valid and test, by the hash of each document")
    for command in (clean, dedup, decontaminate, split):
        command.add_argument("corpus", type=Path, help="folder of Parquet files, the output of an earlier stage")
    for command in (clean, dedup):
        command.add_argument("--config", default="folder", help="configuration with the settings (default %(default)s)")
    add_flags(decontaminate, config.DecontaminateConfig)
    add_flags(split, config.SplitConfig)

    tokenizer = stage("tokenizer", "train sentencepiece, or import a tokenizer, with its dict.txt", "tokenizer folder")
    tokenizer.add_argument("corpus", type=Path, nargs="?", help="folder of Parquet files: split/train")
    add_flags(tokenizer, config.TokenizerConfig)

    binarize = stage("binarize", "Parquet files to fairseq's .bin and .idx", "folder for fairseq-train")
    binarize.add_argument("corpus", type=Path, help="output folder of split")
    binarize.add_argument("--tokenizer", required=True, type=Path, metavar="DIR", help="tokenizer folder")
    add_flags(binarize, config.BinarizeConfig)

    inspect = stage("inspect", "show random documents or decoded blocks, vocabulary coverage and lengths")
    inspect.add_argument("folder", type=Path, metavar="DIR", help="a run, a corpus, or binarised data")
    inspect.add_argument(
        "--samples", type=whole(0, 10_000), default=3, metavar="N", help="how many to show (default %(default)s)"
    )
    inspect.add_argument("--document", metavar="ID", help="say instead why this document was dropped, and beside which")
    inspect.add_argument("--html", type=Path, metavar="FILE", help="write all of it as a page to open in a browser")
    inspect.add_argument("--seed", type=int, default=1, help="chooses the samples (default %(default)s)")

    upload = stage("upload", "copy a finished folder to s3://…, gs://… or hf://…; resumable")
    upload.add_argument("folder", type=Path, metavar="DIR", help="output folder of a stage or of run")
    upload.add_argument("address", metavar="ADDRESS", help="folder on that storage, such as s3://bucket/corpus")
    return top


def run_stage(a: argparse.Namespace) -> int:
    """Run the stage that the arguments name; returns the exit status."""
    if hasattr(a, "out"):
        check_folder(a.out)
    before = records.always_hash, pool.cluster
    records.always_hash, pool.cluster = getattr(a, "verify", False), getattr(a, "cluster", None)
    function, *parameters = _STAGES[a.stage]
    given = [from_flags(p, a) if isinstance(p, type) else p(a) if callable(p) else getattr(a, p) for p in parameters]
    try:
        getattr(import_module(f"data_prep.{a.stage}"), function)(*given)
    finally:
        records.always_hash, pool.cluster = before
    return 0


def _section(a: argparse.Namespace) -> Any:
    from data_prep.pipeline import load_config

    return load_config(a.config, section=a.stage)


# The function of each stage, in the module of the same name, and what it is called with: flags or settings.
_STAGES: dict[str, tuple[Any, ...]] = {
    "run": ("run", "config", "changes", "out", "workers", "redo"),
    "download": ("download", "language", "out", config.DownloadConfig),
    "extract": ("extract", config.SourceConfig, "out", config.ReadingConfig, "workers"),
    "clean": ("clean", "corpus", "out", _section, "workers"),
    "dedup": ("dedup", "corpus", "out", _section, "workers"),
    "decontaminate": ("decontaminate", "corpus", "out", config.DecontaminateConfig, "workers"),
    "split": ("split", "corpus", "out", config.SplitConfig, "workers"),
    "tokenizer": ("make_tokenizer", "corpus", "out", config.TokenizerConfig, "workers"),
    "binarize": ("binarize", "corpus", "tokenizer", "out", config.BinarizeConfig, "workers"),
    "inspect": ("inspect", "folder", "samples", "seed", "document", "html"),
    "upload": ("upload", "folder", "address"),
}
