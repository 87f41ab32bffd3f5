"""What the parsers of all subcommands share."""

import argparse
import math
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning import EPOCHS, LEARNING_RATE
from linformer_fairseq.inference import KEEPS


def command_parser(name: str, description: str | None, **options: Any) -> argparse.ArgumentParser:
    """A parser of `linformer NAME` whose description keeps its line breaks."""
    layout = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(f"linformer {name}", description=description, formatter_class=layout, **options)


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
    "--epochs": {"type": int, "default": EPOCHS, "help": "default: %(default)s"},
    "--force": {"action": "store_true", "help": "replace an existing --out"},
}


def shared_flags(*names: str) -> argparse.ArgumentParser:
    """A parent parser with some of `FLAGS`."""
    parser = argparse.ArgumentParser(add_help=False)
    for name in names:
        parser.add_argument(name, **FLAGS[name])
    return parser


def text_columns(a: argparse.Namespace) -> tuple[str, ...]:
    """The columns of --text-column; UsageError if there are more than two."""
    if len(a.text_column) > 2:
        raise UsageError(f"--text-column: one or two columns, not {len(a.text_column)}")
    return tuple(a.text_column)


def check_at_least_one(a: argparse.Namespace, *names: str) -> None:
    """Raise UsageError if one of these flags is a number below 1, or has such a number."""
    for name in names:
        given = getattr(a, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def check_learning_rates(*rates: float) -> None:
    """Raise UsageError if a value of --lr cannot train anything."""
    for rate in rates:
        if not 0 < rate < math.inf:
            raise UsageError(f"--lr {rate}: must be above 0, such as {LEARNING_RATE:g}")
