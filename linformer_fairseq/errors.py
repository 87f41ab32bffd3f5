"""The one class of errors that a person can correct, and how a command ends with one."""

import errno
import io
import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from linformer_fairseq.io.processes import end_with_parent

AGAIN = "the same command resumes from here"
_REMEDIES = {
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "give access to it, or choose another --out"),
    **dict.fromkeys((errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE), f"check that disk; {AGAIN}"),
    # Commands check what they are given, so this was there a moment ago.
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), f"it was removed or replaced meanwhile; restore it, and {AGAIN}"),
    **dict.fromkeys(
        (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP), "choose another path"
    ),
}
_HF = ("safetensors", "transformers", "tokenizers", "google")
_EXTRAS = {**dict.fromkeys(_HF, "hf"), "submitit": "slurm", "plotly": "report", "py3langid": "report"}
_EXTRAS |= {"distributed": "cluster", "upath": "remote", "onnx": "release"}
_DISTRIBUTIONS = {"google": "protobuf", "upath": "universal_pathlib"}  # by module, where the name differs


class UsageError(ValueError):
    """A wrong flag, file or launch. The message is one sentence that names it and the remedy."""


@contextmanager
def as_one_sentence() -> Iterator[None]:
    """End the program with a sentence where an error that a person can correct would end it with a traceback."""
    try:
        yield
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or _debugging():
            raise
        raise SystemExit(f"error: {sentence}") from None


def exit_status(program: str, command: Callable[[], int]) -> int:
    """Run a command to its end: its exit status, 130 after Ctrl-C, or 1 after an error that a person can correct.

    The error is shown as one sentence after `program`, what the person typed, or raised if LINFORMER_DEBUG is 1. The
    status is 141 if nobody reads the output any more, as behind `| head`.
    """
    end_with_parent()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show must not fail a finished run
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 141
    except KeyboardInterrupt:
        print(f"\n{program}: stopped; {AGAIN}", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or _debugging():
            raise
        print(f"{program}: error: {sentence}", file=sys.stderr)
        return 1


def _unread() -> bool:
    """Whether the other end of standard output is closed."""
    waiting = select.poll()
    waiting.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in waiting.poll(0))


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
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return f"{error.filename or 'the disk'}: {error.strerror}; {_REMEDIES[error.errno]}"
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and "allocate" in str(error):  # PyTorch's
        return f"not enough memory ({str(error).splitlines()[0][:200] if str(error) else 'MemoryError'}); ask for less"
    return None
