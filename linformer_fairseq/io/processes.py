"""Names of processes that no other one has, and programs that end with the process that has started them."""

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

_PARENT = "LINFORMER_PARENT"  # in the environment of a program, the number of the process that has started it


try:  # where process numbers count: this boot and container, whose host names may be those of others; else random
    _PLACE = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii") + os.readlink("/proc/self/ns/pid")
except OSError:
    _PLACE = secrets.token_hex()
_MACHINE = hashlib.sha256(_PLACE.encode()).hexdigest()[:12]


def own_name() -> str:
    """`MACHINE.NUMBER-STARTED` of this process."""
    return f"{_MACHINE}.{os.getpid()}-{_started(os.getpid())}"


def alive(name: str) -> bool | None:
    """Whether a process runs, by its `own_name`; None for one of another machine, of which this one knows nothing."""
    machine, _, process = name.partition(".")
    number, _, started = process.partition("-")
    return str(_started(number)) == started if machine == _MACHINE else None


def _started(process: int | str) -> str | None:
    """Start time of a process of this machine, which distinguishes it from later ones with its number; None if gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]  # a zombie has ended


def child_environment() -> dict[str, str]:
    """The environment of a program that is to `end_with_parent`, started by this process."""
    return {**os.environ, _PARENT: str(os.getpid())}


def end_with_parent(end: Callable[[], None] = lambda: os._exit(1)) -> None:
    """Call `end` within a second of the end of the process that gave this one its environment, or of its torchrun.

    So a recipe that is killed leaves no training behind that keeps its folder locked.
    """
    given = os.environ.pop(_PARENT, None)  # it is not the parent of those that this process starts
    parent = int(given) if given else os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        end()

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()
