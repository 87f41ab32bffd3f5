"""The one class of errors that a person can correct, and how a command ends with one."""

import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

# A file where a folder is needed, and the like.
_WRONG_PLACES = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
AGAIN = "the same command resumes from here"
_EXTRAS = {"safetensors": "hf", "transformers": "hf", "tokenizers": "hf", "google": "hf", "submitit": "slurm"}
_DISTRIBUTIONS = {"google": "protobuf"}  # by module, where the name differs


class UsageError(ValueError):
    """A wrong flag, file or launch. The message is one sentence that names it and the remedy."""


@contextmanager
def as_one_sentence() -> Iterator[None]:
    """End the program with a sentence where a `UsageError` would end it with a traceback."""
    try:
        yield
    except UsageError as error:
        if _debugging():
            raise
        raise SystemExit(f"error: {error}") from None


def exit_status(program: str, command: Callable[[], int]) -> int:
    """Run a command to its end: its exit status, 130 after Ctrl-C, or 1 after an error that a person can correct.

    The error is shown as one sentence after `program`, what the person typed, or raised if LINFORMER_DEBUG is 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show must not fail a finished run
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return command()
    except KeyboardInterrupt:
        print(f"\n{program}: stopped; {AGAIN}", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or _debugging():
            raise
        print(f"{program}: error: {sentence}", file=sys.stderr)
        return 1


def _debugging() -> bool:
    return os.environ.get("LINFORMER_DEBUG") == "1"


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
    numpy_wrote_less = isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", str(error))
    if isinstance(error, OSError) and (numpy_wrote_less or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
        return f"{error.filename or 'the disk'}: no space left; free some, and {AGAIN}"
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error.filename or 'the disk'}: {error.strerror}; give access to it, or choose another --out"
    if isinstance(error, OSError) and error.filename is not None and error.errno in _WRONG_PLACES:
        return f"{error.filename}: {error.strerror}; choose another path"
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and "allocate" in str(error):  # PyTorch's
        return f"not enough memory ({str(error).splitlines()[0][:200] if str(error) else 'MemoryError'}); ask for less"
    return None
