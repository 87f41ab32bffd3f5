"""Worker processes that import a module once, exit with their parent, and cancel pending work after an error."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any


def prepare_pool(module: str) -> None:
    """Start the server that forks the workers of `process_pool`; it imports `module` in the background."""
    # The server imports once for all workers and has no threads when it forks.
    multiprocessing.get_context("forkserver").set_forkserver_preload([module])
    forkserver.ensure_running()


@contextmanager
def process_pool(workers: int, module: str) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes have imported `module`; an error or Ctrl-C cancels the calls that have not started."""
    prepare_pool(module)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"), _end_with_parent) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Inline(Executor):
    """An executor that runs each call immediately in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _end_with_parent() -> None:
    """Exit when the parent process dies: a worker that waits for work would not notice."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
