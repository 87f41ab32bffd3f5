"""The next item is made while one is used."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from linformer_fairseq.inference.work import ahead


def test_the_next_item_is_made_by_another_thread_meanwhile() -> None:
    made = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for i in range(5):
            made.release()
            yield i

    found = []
    for item in ahead(items()):
        assert made.acquire(timeout=60)  # this one
        if item < 4:
            assert made.acquire(timeout=60)  # the next one, before it is asked for
            made.release()
        found.append(item)
    assert found == [0, 1, 2, 3, 4]


def test_an_error_in_making_one_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = []
    with pytest.raises(ValueError, match="broken"):
        for item in ahead(items()):
            found.append(item)
    assert found == [1]
