"""What the first rank finds out, told to all."""

import time
from collections.abc import Callable

import torch.distributed
from torch.distributed.distributed_c10d import _get_default_store

from linformer_fairseq.errors import UsageError

_PATIENCE = 30.0  # seconds


def from_first_rank(subject: str, find: Callable[[], str]) -> str:
    """The result of `find`, called in the first rank alone. Once per `subject` and process.

    It goes through the store where the ranks have met, so that it works before and beside any collective.

    Raises:
        UsageError: in the first rank, from `find`; the others leave with exit status 1.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return find()
    store, key = _get_default_store(), f"linformer_fairseq/{subject}"
    if torch.distributed.get_rank() > 0:
        failed, _, found = store.get(key).decode().partition(" ")
        store.add(f"{key}/heard", 1)
        if failed == "failed":
            raise SystemExit(1)
        return found
    try:
        found = find()
    except UsageError:
        store.set(key, "failed ")
        # The store ends with this process, and the others would report that instead.
        others, deadline = torch.distributed.get_world_size() - 1, time.monotonic() + _PATIENCE
        while store.add(f"{key}/heard", 0) < others and time.monotonic() < deadline:
            time.sleep(0.05)
        raise
    store.set(key, f"found {found}")
    return found
