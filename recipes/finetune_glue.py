"""Fine-tuning on GLUE: `linformer glue`, from a clone."""

import sys

from linformer_fairseq.cli import main

if __name__ == "__main__":
    sys.exit(main(["glue", *sys.argv[1:]]))
