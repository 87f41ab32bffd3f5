"""The one class of errors that a person can correct, and how a command ends with one."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

DEBUG = "LINFORMER_DEBUG"
"""With this environment variable set to 1, errors show their traceback."""

AGAIN = "the same command resumes from here"
_EXTRAS = {"safetensors": "hf", "transformers": "hf", "tokenizers": "hf", "google": "hf", "submitit": "slurm"}
_DISTRIBUTIONS = {"google": "protobuf"}  # by module, where the name differs
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


class UsageError(ValueError):
    """A wrong flag, file or launch. The message is one sentence that names it and the remedy."""


@contextmanager
def as_one_sentence() -> Iterator[None]:
    """End the program with a sentence where a `UsageError` would end it with a traceback."""
    try:
        yield
    except UsageError as error:
        if os.environ.get(DEBUG) == "1":
            raise
        raise SystemExit(f"error: {error}") from None


def exit_status(program: str, command: Callable[[], int]) -> int:
    """Run a command line to its end.

    Args:
        program: what the person typed, for messages: `linformer convert`.
        command: does the work and returns the exit status.

    Returns:
        The exit status of the command; 1 after an error that a person can correct, shown as one sentence; 130 after
        Ctrl-C. With `LINFORMER_DEBUG=1`, the error is raised instead, so that its traceback shows.
    """
    try:
        return command()
    except KeyboardInterrupt:
        print(f"\n{program}: stopped; {AGAIN}", file=sys.stderr)
        return 130
    except (UsageError, BrokenProcessPool, ModuleNotFoundError, OSError) as error:
        sentence = _sentence(error)
        if sentence is None or os.environ.get(DEBUG) == "1":
            raise
        print(f"{program}: error: {sentence}", file=sys.stderr)
        return 1


def _sentence(error: Exception) -> str | None:
    """An error in one sentence, or None for an unexpected one."""
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, BrokenProcessPool):
        return f"a worker process died, perhaps for lack of memory; {AGAIN}, with fewer --workers if necessary"
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").split(".")[0]
        if module not in _EXTRAS:
            return None
        package, extra = _DISTRIBUTIONS.get(module, module), _EXTRAS[module]
        return f"the package {package} is missing: pip install -e '.[{extra}]' from a clone, or pip install {package}"
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"{error.filename or 'the disk'}: no space left; free some, and {AGAIN}"
    if isinstance(error, OSError) and error.errno in _CLOSED:
        return f"{error.filename or 'the disk'}: {error.strerror}; give access to it, or choose another --out"
    return None
