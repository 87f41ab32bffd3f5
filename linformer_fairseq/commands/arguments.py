"""What the parsers of all subcommands share."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import EPOCHS, WARM_UP
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


class _Fixed(argparse.Action):
    """A flag that fine-tuning does not take."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.error(
            f"{self.option_strings[0]}: fine-tuning keeps the model's; change it before, with "
            f"`linformer convert extend SOURCE TARGET {self.option_strings[0]} …`"
        )


# Flags that mean the same in every subcommand that has them
FLAGS: dict[str, dict[str, Any]] = {
    "--checkpoint": {"type": Path, "required": True, "help": ".pt of fairseq, .safetensors, or folder of Hugging Face"},
    "--data": {"type": Path, "metavar": "DIR", "help": "folder of its tokenizer (default: that of its pretraining)"},
    "--text-column": {"nargs": "+", "default": ["text"], "metavar": "NAME", "help": "one or two (default: text)"},
    "--quoted": {"action": "store_true", "help": 'in TSV files, as in CSV, " encloses a field'},
    "--keep": {
        "choices": KEEPS,
        "help": "of texts longer than the model reads: head (default); head-tail, a quarter from the beginning and the "
        "rest from the end; or chunks, all of it, in chunks of equal length whose results are averaged",
    },
    "--from-scratch": {"action": "store_true", "help": "train the same model without its pretrained parameters"},
    "--epochs": {"type": whole(1, 10_000), "default": EPOCHS, "help": "default: %(default)s"},
    "--warm-up": {"type": real(0, 1), "default": WARM_UP, "metavar": "X", "help": "share of updates (default: 0.06)"},
    "--patience": {
        "type": whole(0, 10_000),
        "default": 0,
        "metavar": "N",
        "help": "stop after N epochs without a better one (default: never)",
    },
    "--max-positions": {"action": _Fixed, "help": argparse.SUPPRESS},
    "--projected-length": {"action": _Fixed, "help": argparse.SUPPRESS},
    "--force": {"action": "store_true", "help": "replace an existing --out"},
}


def shared_flags(*names: str) -> argparse.ArgumentParser:
    """A parent parser with some of `FLAGS`."""
    parser = argparse.ArgumentParser(add_help=False)
    for name in names:
        parser.add_argument(name, **FLAGS[name])
    return parser


def text_columns(a: argparse.Namespace) -> tuple[str, ...]:
    """The columns of --text-column; UsageError if there are more than two, or one is named twice or as the label."""
    if len(a.text_column) > 2:
        raise UsageError(f"--text-column: one or two columns, not {len(a.text_column)}")
    names = [*a.text_column, getattr(a, "label_column", None)]
    if len(set(names)) < len(names):
        raise UsageError(
            f"--text-column {' '.join(a.text_column)}: a column can be one text only, and not the label too"
        )
    return tuple(a.text_column)


RUN_FLAGS = ("--from-scratch", "--epochs", "--warm-up", "--patience", "--max-positions", "--projected-length")
"""Flags of every fine-tuning."""
