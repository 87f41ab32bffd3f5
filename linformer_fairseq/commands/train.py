"""`linformer train`: fairseq-train with the settings of a recipe."""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from linformer_fairseq.commands.arguments import at_dashes
from linformer_fairseq.errors import UsageError
from linformer_fairseq.paths import RECIPES


def main(argv: Sequence[str]) -> int:
    """The command line; the process becomes fairseq-train."""
    own, more = at_dashes(argv)
    parser = argparse.ArgumentParser(
        prog="linformer train",
        description="Run fairseq-train with the settings of a recipe. The same command resumes a stopped run.",
        usage="%(prog)s [-h] --save-dir DIR [--dry-run] RECIPE DATA [-- MORE FAIRSEQ FLAGS]\n       %(prog)s --list",
        epilog="Flags after -- win over the recipe, for example: -- --max-update 50 --seed 2",
    )
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="YAML file, or a name that --list prints")
    parser.add_argument("data", metavar="DATA", nargs="?", help="folder written by `linformer prepare binarize`")
    parser.add_argument("--save-dir", type=Path, metavar="DIR", help="folder for checkpoints")
    parser.add_argument("--dry-run", action="store_true", help="only print the command of fairseq-train")
    parser.add_argument("--list", action="store_true", help="print the recipes that are included, and end")
    a = parser.parse_args(own)
    if a.list:
        for path in sorted((RECIPES / "pretrain").glob("*.yaml")):
            with path.open(encoding="utf-8") as file:
                print(f"{path.stem:<18} {file.readline().removeprefix('#').strip()}")
        return 0
    if None in (a.recipe, a.data, a.save_dir):
        parser.error("RECIPE, DATA and --save-dir are required (or --list alone)")

    from linformer_fairseq.training.recipe import fairseq_train_argv, find_recipe

    recipe = find_recipe(a.recipe)
    return become(fairseq_train_argv(recipe, a.data, a.save_dir, more=more), a.dry_run)


def become(command: list[str], dry_run: bool) -> int:
    """Print a command of fairseq-train and, but for a dry run, let it take the place of this process.

    So it gets the signals that are meant for it. UsageError if its data is not there.
    """
    from linformer_fairseq.training.progress import program

    for folder in command[1].split(":"):
        if not dry_run and not (Path(folder) / "dict.txt").is_file():
            found = "has no dict.txt" if Path(folder).is_dir() else "is not a folder"
            raise UsageError(f"DATA {folder} {found}: give one written by `linformer prepare binarize`")
    print(shlex.join(command), flush=True)
    if dry_run:
        return 0
    command = program(command)
    os.execv(command[0], command)
