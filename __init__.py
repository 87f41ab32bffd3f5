"""fairseq's `--user-dir` may name this folder too: it has the models of `linformer_fairseq/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from linformer_fairseq.plugin import register  # noqa: E402

register()
