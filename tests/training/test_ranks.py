"""A rank that is stopped is named by the one that looks at it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch.distributed

from linformer_fairseq.training import ranks


class Looks(threading.Event):
    """Time that passes by looks: before each, something happens."""

    def __init__(self, *happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = iter(happens)

    def wait(self, timeout: float | None = None) -> bool:
        if (happening := next(self._happens, None)) is None:
            return True
        happening()
        return False


def test_the_rank_that_gives_no_sign_is_named_once_and_when_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    signs: dict[int, str] = {}

    def sign(*counts: int) -> Callable[[], None]:
        return lambda: signs.update({rank: f"{count} on node{rank}, process 7" for rank, count in enumerate(counts, 1)})

    ranks._report(signs, 6.0, Looks(*(sign(count, min(count, 3)) for count in range(10)), sign(11, 4), sign(12, 5)))
    assert caplog.messages == [
        "rank 2 (on node2, process 7) has given no sign of life for 30 seconds: it is stopped, or its machine or "
        "network is, and all others wait for it",
        "rank 2 (on node2, process 7) has resumed",
    ]


def test_ranks_exchange_signs_through_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    store = torch.distributed.HashStore()
    signs: list[dict[int, str]] = [{}, {}, {}]
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    for rank in (1, 2, 0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        ranks._listen(store, signs[rank], 1.0, Looks(lambda: None))
    assert [sorted(found) for found in signs] == [[1, 2], [0], []]
    assert signs[0][2].startswith("1 on ")
