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
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): f"no space left; free some, and {AGAIN}",
    (errno.EROFS, errno.EACCES, errno.EPERM): "{why}; give access to it, or choose another --out",
    (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE): f"{{why}}; check that disk; {AGAIN}",
    # Commands check what they are given, so this was there a moment ago.
    (errno.ENOENT, errno.ENOTDIR): f"{{why}}; it was removed or replaced meanwhile; restore it, and {AGAIN}",
    (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP): "{why}; choose another path",
}
# Extra of setup.py by module, and the distribution where its name differs
_EXTRAS = dict.fromkeys(("safetensors", "transformers", "tokenizers", "google"), "hf")
_EXTRAS |= {"submitit": "slurm", "plotly": "report", "py3langid": "report", "distributed": "cluster"}
_EXTRAS |= {"upath": "remote", "onnx": "release"}
_DISTRIBUTIONS = {"google": "protobuf", "upath": "universal_pathlib"}


class UsageError(ValueError):
    """A wrong flag, file or launch. The message is one sentence that names it and the remedy."""


@contextmanager
def as_one_sentence() -> Iterator[None]:
    """End the program with a sentence where an error that a person can correct would end it with a traceback."""
    try:
        yield
    except Exception as error:
        if (sentence := _sentence(error)) is None:
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
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not any(event & select.POLLERR for _, event in output.poll(0)):  # another pipe has broken
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 141
    except KeyboardInterrupt:
        print(f"\n{program}: stopped; {AGAIN}", file=sys.stderr)
        return 130
    except Exception as error:
        if (sentence := _sentence(error)) is None:
            raise
        print(f"{program}: error: {sentence}", file=sys.stderr)
        return 1


def _sentence(error: Exception) -> str | None:
    """An error in one sentence, or None for an unexpected one, and for all if LINFORMER_DEBUG is 1."""
    if os.environ.get("LINFORMER_DEBUG") == "1":
        return None
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
    if isinstance(error, OSError):
        numpy_wrote_less = re.fullmatch(r"\d+ requested and \d+ written", str(error))
        number = errno.ENOSPC if numpy_wrote_less else error.errno
        found = next((remedy for numbers, remedy in _REMEDIES.items() if number in numbers), None)
        return found and f"{error.filename or 'the disk'}: {found.format(why=error.strerror)}"
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and "allocate" in str(error):  # PyTorch's
        return f"not enough memory ({str(error).splitlines()[0][:200] if str(error) else 'MemoryError'}); ask for less"
    return None
