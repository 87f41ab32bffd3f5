"""Documents to vectors or predictions: `linformer encode`, from a clone."""

import sys

from linformer_fairseq.cli import main

if __name__ == "__main__":
    sys.exit(main(["encode", *sys.argv[1:]]))
