"""Faults of disks and processes, in a forked copy of this process that runs a command with everything imported.

A step is a call that makes, renames, links, opens, synchronises or removes something below the working folder.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from linformer_fairseq.io import shards
from linformer_fairseq.io.pool import Inline

LIMIT = 120  # seconds of processor time of one command
_STEPS = ("mkdir", "replace", "rename", "link", "unlink", "fsync", "utime", "open")
_CHANGING = ("mkdir", "replace", "rename", "link", "utime")

Main = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Fault:
    """What goes wrong, at which step; kind `none` only counts the steps."""

    kind: str
    step: int = 0


@dataclass(frozen=True)
class Ended:
    """How a command has ended."""

    status: int  # negative: killed by this signal
    output: str
    steps: int

    def sentence(self) -> bool:
        """Whether it has failed with one sentence that says why."""
        said = [line for line in self.output.splitlines() if "error: " in line]
        return self.status in (1, 2) and len(said) == 1 and "Traceback" not in self.output


def run(main: Main, argv: Sequence[str], folder: Path, fault: Fault, out: str) -> Ended:
    """Run a command in `folder`, where the fault happens; `out` is what it writes there."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as count:
        child = os.fork()
        if not child:
            _become(main, argv, folder, fault, folder / out, output.fileno(), count.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        text = output.read().decode(errors="replace")
        return Ended(status, text, os.fstat(count.fileno()).st_size)


def _become(main: Main, argv: Sequence[str], folder: Path, fault: Fault, out: Path, output: int, count: int) -> None:
    status = 70
    try:
        os.chdir(folder)
        for number in (1, 2):
            os.dup2(output, number)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
        forkserver.ensure_running = lambda: None
        shards.executor = lambda workers, module: nullcontext((Inline(), 1))  # type: ignore[assignment,return-value]
        if fault.kind == "file size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.step, fault.step))
        _inject(folder.resolve(), fault, out, count)
        status = main(argv)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        import traceback

        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        traceback.print_exc()
    finally:
        os._exit(status)


def _inject(folder: Path, fault: Fault, out: Path, count: int) -> None:
    step = 0

    def before(name: str, path: Any, writes: bool) -> None:
        nonlocal step
        if not isinstance(path, (str, os.PathLike)) or not Path(os.path.abspath(path)).is_relative_to(folder):
            return
        step += 1
        os.write(count, b".")
        past, here = step >= fault.step, step == fault.step
        if fault.kind == "kill" and here:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind == "folder vanishes" and here:
            shutil.rmtree(out, ignore_errors=True) if out.is_dir() else out.unlink(missing_ok=True)
        for kind, number, happens in (
            ("disk full", errno.ENOSPC, past and writes),
            ("read-only", errno.EROFS, past and writes),
            ("input/output error", errno.EIO, here),
        ):
            if fault.kind == kind and happens:
                raise OSError(number, os.strerror(number), str(path))

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **named: Any) -> Any:
            if name == "fsync":
                before(name, os.readlink(f"/proc/self/fd/{path}"), False)
            elif name == "open" and function is not opened:
                mode = str(named.get("mode", arguments[0] if arguments else "r"))
                before(name, path, mode[0] in "wxa")
            else:
                flags = arguments[0] if arguments and name == "open" else 0
                before(name, path, name in _CHANGING or bool(flags & (os.O_WRONLY | os.O_RDWR)))
            return function(path, *arguments, **named)

        return call

    opened = os.open
    for name in _STEPS:
        setattr(os, name, wrapped(name, getattr(os, name)))
    builtins.open = io.open = wrapped("open", io.open)
