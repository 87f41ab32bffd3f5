"""Checkpoints from and to other forms: `linformer convert`, from a clone."""

import sys

from linformer_fairseq.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
