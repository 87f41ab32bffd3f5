"""A rank that is stopped, or whose machine is, holds up all others without a word; here they say which one it is."""

import atexit
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch.distributed
from torch.distributed.distributed_c10d import _get_default_store

logger = logging.getLogger(__name__)

SILENCE = 30.0
"""Seconds without a sign of life until a rank is named."""
LOOKS = 5
_KEY = "linformer_fairseq/alive"


def watch(timeout: float) -> None:
    """Give signs of life to the other ranks, and name those whose signs stop, in a thread that ends with this process.

    The first rank looks at all, the second at the first. A rank is named after `SILENCE`, or half of `timeout` if that
    is less and above 0: that of --heartbeat-timeout, after which those that wait for it are ended.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    interval = (min(SILENCE, timeout / 2) if timeout > 0 else SILENCE) / LOOKS
    ended = threading.Event()
    signs: dict[int, str] = {}  # the last one of each rank
    store: Any = _get_default_store()
    threads = [  # with a connection of its own, since a call waits as long as the first rank does not answer
        threading.Thread(target=_listen, args=(store.clone(), signs, interval, ended), daemon=True),
        threading.Thread(target=_report, args=(signs, interval, ended), daemon=True),
    ]
    for thread in threads:
        thread.start()

    def stop() -> None:
        ended.set()
        for thread in threads:
            thread.join(1)  # Python would take it down inside PyTorch

    atexit.register(stop)


def _listen(store: Any, signs: dict[int, str], interval: float, ended: threading.Event) -> None:
    """Exchange signs with the other ranks through the store that the first one holds: if it is stopped, this waits."""
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    watched = {0: range(1, size), 1: range(1)}.get(rank, range(0))
    keys = [f"{_KEY}/{other}" for other in watched]
    count = 0
    while not ended.wait(interval):
        count += 1
        try:
            store.set(f"{_KEY}/{rank}", f"{count} on {socket.gethostname()}, process {os.getpid()}")
            found = store.multi_get(keys) if keys and store.check(keys) else []
        except Exception:
            return  # a rank has ended, which the others are told by other ways
        signs |= {other: sign.decode() for other, sign in zip(watched, found, strict=False)}


def _report(signs: Mapping[int, str], interval: float, ended: threading.Event) -> None:
    before: dict[int, str] = {}
    unchanged: Counter[int] = Counter()  # in looks: seconds in which this process was stopped say nothing
    while not ended.wait(interval):
        for rank, sign in list(signs.items()):
            name = f"rank {rank} ({sign.partition(' ')[2]})"
            if before.get(rank) == sign:
                unchanged[rank] += 1
                if unchanged[rank] == LOOKS:
                    logger.warning(
                        f"{name} has given no sign of life for {LOOKS * interval:.0f} seconds: it is stopped, or its "
                        "machine or network is, and all others wait for it"
                    )
            elif unchanged.pop(rank, 0) >= LOOKS:
                logger.warning(f"{name} has resumed")
            before[rank] = sign
