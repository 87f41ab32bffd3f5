"""The signals that ask a training to save and leave, in each of its processes.

A thread takes them, because the main thread may be inside PyTorch for long, and Python runs handlers there only.
"""

import logging
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.context import SpawnProcess
from signal import Signals

logger = logging.getLogger(__name__)

REQUEUE = 75
"""Exit status of a training that was asked to leave: all is saved, start the same command again (EX_TEMPFAIL)."""
INTERRUPTED = 130
"""The same after Ctrl-C, as shells have it."""

ASKING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
_AGAIN = 1.0  # seconds; a terminal and a launcher may both deliver the same Ctrl-C

_noted: list[Signals] = []
_first_interrupt: float | None = None
_listening = False
_has_something_to_save = threading.Event()


def status(asked: Signals) -> int:
    """The exit status after this signal."""
    return INTERRUPTED if asked == signal.SIGINT else REQUEUE


def training_begins() -> None:
    """From now on a signal waits for somebody to ask `noted`, and no longer ends this process at once."""
    _has_something_to_save.set()


def noted() -> Signals | None:
    """The first signal that this process has got, if any."""
    return _noted[0] if _noted else None


def hold_for_children() -> None:
    """Keep the signals from processes that are spawned from now on, until they `listen` themselves."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)


def listen() -> None:
    """Take the signals from now on. Before a training has begun they end it at once: there is nothing to save yet."""
    global _listening
    if not _listening and threading.current_thread() is threading.main_thread():
        _listening = True
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for asking in ASKING:
            signal.signal(asking, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
        threading.Thread(target=_read, args=(reader,), daemon=True).start()
        os.register_at_fork(after_in_child=_leave_it_to_the_parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)


def _read(reader: int) -> None:
    while True:
        for number in os.read(reader, 64):
            if number in ASKING:
                _react(Signals(number))


def _react(asked: Signals) -> None:
    global _first_interrupt
    ranks = [child for child in list(multiprocessing.process._children) if isinstance(child, SpawnProcess)]  # type: ignore[attr-defined]
    if asked == signal.SIGINT:
        now = time.monotonic()
        if _first_interrupt is not None:
            if now - _first_interrupt > _AGAIN:
                _leave_at_once(ranks)
            return
        _first_interrupt = now
    again = bool(_noted)
    _noted.append(asked)
    if again:
        return
    for rank in ranks:
        with suppress(ProcessLookupError):  # Ctrl-C reaches them too, and twice means something else
            os.kill(rank.pid or 0, signal.SIGTERM if asked == signal.SIGINT else asked)
    if ranks:
        return
    if not _has_something_to_save.is_set():
        logger.info(f"{asked.name}: no update was made yet, so nothing has to be saved; the same command starts again")
        _exit(status(asked))
    more = "; Ctrl-C once more stops at once" if asked == signal.SIGINT else ""
    logger.info(f"{asked.name}: saving after this update, then stopping{more}")


def _leave_at_once(ranks: list[SpawnProcess]) -> None:
    logger.warning("SIGINT again: stopping at once, without saving")
    for rank in ranks:
        with suppress(ProcessLookupError):
            os.kill(rank.pid or 0, signal.SIGKILL)
    _exit(INTERRUPTED)


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _leave_it_to_the_parent() -> None:
    """In a forked process, a data loader's: the signals of a whole group or job step must not end it.

    The training would die of it before it has saved. Its parent ends it with SIGTERM, and still can.
    """
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    threading.Thread(target=_obey_the_parent, daemon=True).start()


def _obey_the_parent() -> None:
    parent = os.getppid()
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(-signal.SIGTERM % 256)
