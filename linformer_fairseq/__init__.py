"""Linformer encoders for fairseq: `fairseq-train DATA --user-dir linformer_fairseq --arch linformer_roberta_base …`.

Importing this package, or a helper in it, changes nothing and loads neither torch nor fairseq. `register` in
`plugin.py` teaches fairseq the models and repairs it; it runs when fairseq loads the user-dir, and where a command of
this project trains.
"""

import logging
import sys
from pathlib import Path

from linformer_fairseq.version import __version__

_here = Path(__file__).resolve().parent
if __name__ != "linformer_fairseq":  # the name of the user-dir's folder; fairseq would register everything twice
    raise SystemExit(f"error: --user-dir {Path(__file__).parent}: give it as {_here.with_name('linformer_fairseq')}")
for _folder in Path(sys.argv[0] if sys.argv else "").resolve().parents:
    if _folder.name in ("recipes", "slurm"):  # of a clone, perhaps
        _beside = _folder.with_name("linformer_fairseq")
        if (_beside / "paths.py").is_file() and _beside != _here:
            raise SystemExit(f"error: {sys.argv[0]} would run the code in {_here}: pip install -e {_beside.parent}")

# fairseq, when it is imported, asks everybody to install a package that only speech needs, and sets the root logger to
# DEBUG, at which matplotlib tells its folders.
for _name in ("fairseq.tasks.text_to_speech", "matplotlib"):
    logging.getLogger(_name).setLevel(logging.WARNING)

__all__ = ["__version__"]
