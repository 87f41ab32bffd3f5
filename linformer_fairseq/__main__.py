"""`python -m linformer_fairseq`: the same as `linformer`; without a command, `linformer env`."""

import sys

from linformer_fairseq.cli import main

words = sys.argv[1:]
sys.exit(main(words if words and words[0] not in ("--path", "--json") else ["env", *words]))
