"""`python -m linformer_fairseq`: the same as `linformer`; without a command, `linformer env`."""

import sys

from linformer_fairseq.cli import COMMANDS, main

words = sys.argv[1:]
sys.exit(main(words if words[:1] and words[0] in COMMANDS else ["env", *words]))
