"""Jobs through submitit: `linformer launch`, from a clone."""

import sys

from linformer_fairseq.cli import main

if __name__ == "__main__":
    sys.exit(main(["launch", *sys.argv[1:]]))
