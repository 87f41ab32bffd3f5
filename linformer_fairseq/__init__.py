"""Linformer encoders for fairseq: `fairseq-train DATA --user-dir linformer_fairseq --arch linformer_roberta_base …`.

Importing this package repairs what fairseq breaks on a current Python and PyTorch (see `compat`) and registers the
model. Without fairseq, `linformer_fairseq.layers` still works.
"""

import logging
import sys
from importlib.util import find_spec

from linformer_fairseq.version import __version__

__all__ = ["__version__"]

# Before fairseq is imported: it asks everybody to install a package that only speech needs.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

# `python -m linformer_fairseq` has "-m" here as its first argument; it also reports on a fairseq that is broken.
if sys.argv[:1] != ["-m"] and find_spec("fairseq") is not None:
    from linformer_fairseq import compat

    compat.apply()

    from linformer_fairseq import criterions, models, optim, tasks, training  # noqa: F401  (they register themselves)

    training.apply()
