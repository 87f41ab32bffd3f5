"""A training that has succeeded ends with exit status 0."""

import atexit
import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from fairseq.data.iterators import BackgroundConsumer

_loading: WeakSet[BackgroundConsumer] = WeakSet()
_exiting = threading.Event()


def stop_loading_before_exit() -> None:
    """End fairseq's threads that load batches before Python ends.

    A training that stops within an epoch leaves such a thread at work. When Python takes it down inside PyTorch, the
    process sometimes dies of "terminate called without an active exception" (SIGABRT, exit status 134) after its last
    checkpoint, and a Slurm job or a script that looks at the status takes it for a failure.
    """
    fairseq_run = BackgroundConsumer.run

    def run(self: BackgroundConsumer) -> None:
        _loading.add(self)
        self._source = _until_exit(self._source)
        fairseq_run(self)

    BackgroundConsumer.run = run
    atexit.register(_stop_loading)


def _until_exit(batches: Any) -> Iterator[Any]:
    for batch in batches:
        if _exiting.is_set():
            return
        yield batch


def _stop_loading() -> None:
    """Make room in each queue until its thread has seen the signal; no more than ten seconds for each."""
    _exiting.set()
    for consumer in list(_loading):
        for _ in range(1000):
            if not consumer.is_alive():
                break
            with suppress(queue.Empty):
                consumer._queue.get_nowait()
            consumer.join(0.01)
