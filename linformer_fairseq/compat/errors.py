"""The error that a person can put right, and its way to the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(ValueError):
    """A wrong flag, file or launch. The message is one sentence that names it and the remedy."""


@contextmanager
def as_one_sentence() -> Iterator[None]:
    """End the program with the sentence alone where a UsageError would end it with a traceback."""
    try:
        yield
    except UsageError as error:
        raise SystemExit(f"error: {error}") from None
