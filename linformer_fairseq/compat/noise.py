"""Warnings and messages that mean nothing to the person who trains."""

import logging
import os
import warnings

# (start of the message, category, module that causes it). fairseq works in spite of them, and only a change in
# fairseq could end them.
_KNOWN: list[tuple[str, type[Warning], str]] = [
    # In every update.
    (r"`torch\.cuda\.amp\.(autocast|GradScaler)\(args\.\.\.\)` is deprecated", FutureWarning, r"fairseq\."),
    # Whenever a model is wrapped for several processes.
    (r"`broadcast_buffers` is deprecated", FutureWarning, r"linformer_fairseq\.compat\.distributed"),
    # Whenever data is loaded without a GPU.
    (r"'pin_memory' argument is set as true but no accelerator", UserWarning, r"torch\.utils\.data\."),
    # Twenty lines at the start of every command, on how fairseq calls Hydra.
    (r"hydra\.experimental\.\w+\(\) is no longer experimental", UserWarning, ""),
    (r"\nThe version_base parameter is not specified", UserWarning, r"hydra\."),
    (r"In 'config': Usage of deprecated keyword in package header", UserWarning, r"hydra\."),
    (r"\n'config' is validated against ConfigStore schema with the same name", UserWarning, ""),
    (r"\n?The strict flag in the compose API is deprecated", UserWarning, r"hydra\."),
]


def silence_known_warnings() -> None:
    """Filter the warnings above, which would bury a training log, and no others."""
    for message, category, module in _KNOWN:
        warnings.filterwarnings("ignore", message, category, module)


def quiet_root_logger() -> None:
    """Undo what a model of fairseq (wav2vec2_classification) does when imported: it sets the root logger to DEBUG.

    Every library would then log its details. `fairseq-train` has set up logging before it imports models, and
    LOGLEVEL=DEBUG asks for everything; both are left alone.
    """
    if logging.root.level == logging.DEBUG and os.environ.get("LOGLEVEL", "").upper() != "DEBUG":
        logging.root.setLevel(logging.WARNING)
