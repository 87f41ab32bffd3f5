"""Linformer encoders for fairseq: `fairseq-train DATA --user-dir linformer_fairseq --arch linformer_roberta_base …`.

Importing this package, or a helper in it, changes nothing and loads neither torch nor fairseq. `register` in
`plugin.py` teaches fairseq the models and repairs it; it runs when fairseq loads the user-dir, and where a command of
this project trains.
"""

import logging

from linformer_fairseq.version import __version__

# fairseq asks everybody, when it is imported, to install a package that only speech needs.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

__all__ = ["__version__"]
