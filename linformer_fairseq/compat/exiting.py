"""A training run that has succeeded ends with exit status 0."""

import atexit
import queue
import threading
from contextlib import suppress

from fairseq.data.iterators import BackgroundConsumer


def stop_loading_before_exit() -> None:
    """End fairseq's threads that load batches before Python ends.

    A training run that stops within an epoch leaves such a thread running. If Python takes it down inside PyTorch, the
    process sometimes dies of "terminate called without an active exception" (SIGABRT, exit status 134) after its last
    checkpoint, and a Slurm job or a script takes it for a failure.
    """
    atexit.register(_stop_loading)


def _stop_loading() -> None:
    """Let each thread stop after its next batch, and make room in its queue; at most ten seconds for each."""
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
