"""What the parsers of all subcommands share."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import EPOCHS, LEARNING_RATE, WARM_UP
from linformer_fairseq.inference import KEEPS
from linformer_fairseq.ranges import real, whole


def command_parser(name: str, description: str | None, **options: Any) -> argparse.ArgumentParser:
    """A parser of `linformer NAME` whose description keeps its line breaks."""
    layout = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(f"linformer {name}", description=description, formatter_class=layout, **options)


def at_dashes(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """A command's own words, and those behind `--`, which are flags of fairseq-train."""
    end = argv.index("--") if "--" in argv else len(argv)
    return argv[:end], argv[end + 1 :]


def _fixed(text: str) -> str:
    """The `type` of a flag that fine-tuning does not take."""
    change = "change it before, with `linformer convert extend SOURCE TARGET …`"
    raise argparse.ArgumentTypeError(f"fine-tuning keeps the model's; {change}")


_KEEP = "of texts longer than the model reads: head (default); head-tail, a quarter from the beginning and the rest "
_KEEP += "from the end; or chunks, all of it, in chunks of equal length whose results are averaged"
_LR = "several are tried, and the one with the best median on the dev rows is kept (default: %(default)s)"
_PATIENCE = "stop after N epochs without a better one (default: never)"
# Flags that mean the same in every subcommand that has them
FLAGS: dict[str, dict[str, Any]] = {
    "--checkpoint": dict(type=Path, required=True, help=".pt of fairseq, .safetensors, or folder of Hugging Face"),
    "--data": dict(type=Path, metavar="DIR", help="folder of its tokenizer (default: that of its pretraining)"),
    "--text-column": dict(nargs="+", default=["text"], metavar="NAME", help="one or two (default: text)"),
    "--quoted": dict(action="store_true", help='in TSV files, as in CSV, " encloses a field'),
    "--keep": dict(choices=KEEPS, help=_KEEP),
    "--from-scratch": dict(action="store_false", dest="pretrained", help="train without the pretrained parameters"),
    "--epochs": dict(type=whole(1, 10_000), default=EPOCHS, help="default: %(default)s"),
    "--warm-up": dict(type=real(0, 1), default=WARM_UP, metavar="X", help="share of updates (default: 0.06)"),
    "--patience": dict(type=whole(0, 10_000), default=0, metavar="N", help=_PATIENCE),
    "--lr": dict(type=real(0, 1000, inside=True), nargs="+", default=[LEARNING_RATE], help=_LR),
    "--seeds": dict(type=whole(1, 1000), default=1, metavar="N", help="runs of each setting (default: %(default)s)"),
    "--max-positions": dict(type=_fixed, help=argparse.SUPPRESS),
    "--projected-length": dict(type=_fixed, help=argparse.SUPPRESS),
    "--force": dict(action="store_true", help="replace an existing --out"),
}
RUN_FLAGS = "--checkpoint --data --from-scratch --epochs --warm-up --patience --lr --seeds".split()
RUN_FLAGS += ["--max-positions", "--projected-length"]
"""Flags of every fine-tuning."""
RUN_SETTINGS = ("epochs", "warm_up", "patience", "pretrained")
"""What they say of each run, by the names of `finetuning.train.Run`."""


def shared_flags(*names: str) -> argparse.ArgumentParser:
    """A parent parser with some of `FLAGS`."""
    parser = argparse.ArgumentParser(add_help=False)
    for name in names:
        parser.add_argument(name, **FLAGS[name])
    return parser


def each_once(flag: str, values: Sequence[Any]) -> None:
    """UsageError if a value is there twice."""
    if len(set(values)) < len(values):
        raise UsageError(f"{flag}: {max(values, key=values.count)} is there twice; name each once")


def text_columns(a: argparse.Namespace) -> tuple[str, ...]:
    """The columns of --text-column; UsageError if there are more than two, or one is named twice or as the label."""
    if len(a.text_column) > 2:
        raise UsageError(f"--text-column: one or two columns, not {len(a.text_column)}")
    names = [*a.text_column, getattr(a, "label_column", None)]
    if len(set(names)) < len(names):
        shown = " ".join(a.text_column)
        raise UsageError(f"--text-column {shown}: a column can be one text only, and not the label too")
    return tuple(a.text_column)
