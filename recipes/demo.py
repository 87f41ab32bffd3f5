"""A model from nothing in minutes: `linformer demo`, from a clone."""

import sys

from linformer_fairseq.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
