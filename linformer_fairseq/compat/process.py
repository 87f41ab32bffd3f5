"""The process around fairseq: its exit status, its warnings, and a name that NumPy has removed."""

import logging
import os
import queue
import threading
import warnings
from contextlib import suppress
from types import SimpleNamespace

import fairseq.modules.dynamic_crf_layer
import numpy as np
from fairseq.data.iterators import BackgroundConsumer

# (start of the message, category, module that causes it). Only a change in fairseq could end them.
_KNOWN: list[tuple[str, type[Warning], str]] = [
    # In every update.
    (r"`torch\.cuda\.amp\.(autocast|GradScaler)\(args\.\.\.\)` is deprecated", FutureWarning, r"fairseq\."),
    # Whenever a model is wrapped for several processes.
    (r"`broadcast_buffers` is deprecated", FutureWarning, r"linformer_fairseq\.compat\.launch"),
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
    """Undo that a model of fairseq (wav2vec2_classification) sets the root logger to DEBUG when imported.

    `fairseq-train` has set up logging before, and LOGLEVEL=DEBUG asks for everything; both are left alone.
    """
    if logging.root.level == logging.DEBUG and os.environ.get("LOGLEVEL", "").upper() != "DEBUG":
        logging.root.setLevel(logging.WARNING)


def restore_removed_numpy_names() -> None:
    """Give `np.float`, removed in NumPy 1.24, back to the one file of fairseq that needs it, to score targets by a CRF.

    `np.int` is used only by functions that also call `Generator.randint`, which never existed.
    """
    fairseq.modules.dynamic_crf_layer.np = SimpleNamespace(**vars(np) | {"float": float})


def stop_loading() -> None:
    """End fairseq's threads that load batches before Python ends, so that a run that has succeeded exits with 0.

    A run that stops within an epoch leaves such a thread running. If Python takes it down inside PyTorch, the process
    sometimes dies of "terminate called without an active exception" (SIGABRT) after its last checkpoint. Each thread
    stops after its next batch, for which there is room in its queue; at most ten seconds for each.
    """
    loading = [thread for thread in threading.enumerate() if isinstance(thread, BackgroundConsumer)]
    for thread in loading:
        thread._max_len = 0
    for thread in loading:
        for _ in range(1000):
            if not thread.is_alive():
                break
            with suppress(queue.Empty):
                thread._queue.get_nowait()
            thread.join(0.01)
