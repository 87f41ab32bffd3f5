"""`linformer train`: fairseq-train with the settings of a recipe."""

from __future__ import annotations

import argparse
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """The command line; returns fairseq's exit status."""
    own, extra = list(argv), []
    if "--" in own:
        extra = own[own.index("--") + 1 :]
        own = own[: own.index("--")]
    parser = argparse.ArgumentParser(
        prog="linformer train",
        description="Run fairseq-train with the settings of a recipe.",
        usage="%(prog)s [-h] --save-dir DIR [--dry-run] RECIPE DATA [-- MORE FAIRSEQ FLAGS]",
        epilog="Flags after -- win over the recipe, for example: -- --max-update 50 --seed 2",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or the name of one that comes along")
    parser.add_argument("data", metavar="DATA", help="folder made by `python -m data_prep binarize`")
    parser.add_argument("--save-dir", type=Path, required=True, metavar="DIR", help="folder for checkpoints")
    parser.add_argument("--dry-run", action="store_true", help="only print the command")
    options = parser.parse_args(own)

    from linformer_fairseq.training.progress import program
    from linformer_fairseq.training.recipe import fairseq_train_argv, find_recipe

    argv = fairseq_train_argv(find_recipe(options.recipe), options.data, options.save_dir) + extra
    print(shlex.join(argv), flush=True)
    return 0 if options.dry_run else subprocess.run(program(argv)).returncode
