"""What fairseq gets from this project: repairs, models, tasks, criterions, optimizers, and the hooks of a training."""

import logging
from functools import cache


@cache
def register() -> None:
    """Repair fairseq and register everything with it, once per process.

    It runs when fairseq loads the user-dir (`models/user_dir.py`), and must be called where this package has been
    imported before: fairseq skips a user-dir that is in `sys.modules` already.
    """
    # Before fairseq is imported: it asks everybody to install a package that only speech needs.
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

    from linformer_fairseq import compat

    compat.apply()

    from linformer_fairseq import criterions, models, optim, tasks, training  # noqa: F401  (they register themselves)

    training.apply()
