"""Where calls run: in this process, in processes of this machine, or on a cluster of Dask."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any

from linformer_fairseq.errors import UsageError

cluster: str | None = None
"""Address of the scheduler of Dask whose workers are used instead of processes of this machine (`--cluster`)."""
WINDOW = 1024  # calls that the cluster is given at a time


@contextmanager
def executor(workers: int, module: str) -> Iterator[tuple[Executor, int]]:
    """What runs calls, and how many calls it is given at a time; with 0 workers, this process does.

    An error or Ctrl-C cancels the calls that have not started. A worker of Dask that is lost costs its calls alone,
    which the scheduler gives to others. All workers must see the same folders, and have this package.
    """
    if not workers:
        yield Inline(), 1
    elif cluster is None:
        prepare_pool(module)
        with ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"), _end_with_parent) as pool:
            try:
                yield pool, workers
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    else:
        from distributed import Client, KilledWorker

        try:
            client = Client(cluster, timeout=30)
        except (OSError, ValueError) as error:
            raise UsageError(f"--cluster {cluster}: no scheduler of Dask answers there ({error}); start one") from error
        with client, client.get_executor(pure=False) as calls:
            try:
                yield calls, WINDOW
            except (KilledWorker, CancelledError) as error:
                raise UsageError(
                    f"--cluster {cluster}: its scheduler was lost, or a call ended several workers ({error}); read "
                    "their logs, give workers more memory if they lack it, and start the same command again"
                ) from error
            except BaseException:
                calls.shutdown(wait=False)
                raise


def prepare_pool(module: str) -> None:
    """Start the server that forks worker processes; it imports `module` in the background, once for all of them."""
    if cluster is None:
        forkserver.set_forkserver_preload([module])
        forkserver.ensure_running()


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
