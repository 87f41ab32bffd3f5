"""The command `linformer`. Each subcommand is a module of `commands`, imported only when it runs."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module

from linformer_fairseq.errors import exit_status
from linformer_fairseq.version import __version__

COMMANDS = {
    "demo": "pretrain a small model on this machine in minutes, from nothing",
    "prepare": "raw text to fairseq training data, in stages (python -m data_prep)",
    "train": "pretrain from a recipe",
    "plan": "memory, time, energy and disk of a pretraining run, before it is started",
    "report": "what runs did and what their models do, as a page to open in a browser",
    "distill": "fit a converted model to the exact one that it was made from",
    "convert": "checkpoints from and to fairseq, RoBERTa, Hugging Face and safetensors; longer inputs",
    "choose-k": "propose k for each layer, and the local window, for a bound on the error of attention",
    "finetune": "fine-tune on any labelled table, and predict",
    "glue": "fine-tune on GLUE: a grid of settings and seeds, and one table",
    "encode": "documents to vectors or predictions",
    "launch": "pretrain, fine-tune and prepare under Slurm, through submitit",
    "env": "what this machine offers, and what needs repair",
}

HELP = """\
usage: linformer COMMAND …

Pretrain, fine-tune and ship Linformer encoders with fairseq.

{commands}

`linformer COMMAND --help` explains each. For fairseq's own programs: --user-dir "$(linformer env --path)".
With LINFORMER_DEBUG=1, errors show their traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; the result is the exit status."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("", "-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<9} {text}" for name, text in COMMANDS.items())))
        return 0 if name else 2
    if name == "--version":
        print(f"linformer_fairseq {__version__}")
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        print(f"linformer: error: {name}: no such command; {remedy}", file=sys.stderr)
        return 2
    of_commands = f"linformer_fairseq.commands.{name.replace('-', '_')}"
    module = import_module("data_prep.__main__" if name == "prepare" else of_commands)
    return exit_status(f"linformer {name}", partial(module.main, rest))
