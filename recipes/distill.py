"""A converted model is fitted to its exact original: `linformer distill`, from a clone."""

import sys

from linformer_fairseq.cli import main

if __name__ == "__main__":
    sys.exit(main(["distill", *sys.argv[1:]]))
