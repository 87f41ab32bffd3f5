"""Pretraining from a recipe: `linformer train`, from a clone."""

import sys

from linformer_fairseq.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
