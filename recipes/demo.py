"""A model from nothing in minutes: `linformer demo`, from a clone."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the code of the clone, whatever is installed
    sys.exit(import_module("linformer_fairseq.cli").main(["demo", *sys.argv[1:]]))
