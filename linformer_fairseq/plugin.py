"""What fairseq gets from this project: repairs, models, tasks, criterions, optimizers, and the hooks into training."""

from functools import cache


@cache
def register() -> None:
    """Repair fairseq and register everything with it, once per process. Nothing else changes fairseq.

    It runs when fairseq loads the user-dir (`models/user_dir.py`). Commands that train call it too, because fairseq
    skips a user-dir whose package has been imported.
    """
    from linformer_fairseq import compat, criterions, models, optim, tasks  # noqa: F401  (they register themselves)
    from linformer_fairseq.training import hooks

    compat.apply(hooks.around)
