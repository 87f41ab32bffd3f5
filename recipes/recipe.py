"""Pretraining from a recipe: `linformer train`, from a clone. The other scripts beside this one run its `run` too."""

import sys
from importlib import import_module
from pathlib import Path


def run(command: str) -> None:
    """`linformer COMMAND` with the words of the command line and the code of this clone, whatever is installed."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(import_module("linformer_fairseq.cli").main([command, *sys.argv[1:]]))


if __name__ == "__main__":
    run("train")
