"""The signals that ask a training run to save and stop, in each of its processes.

A thread takes them, because Python runs signal handlers in the main thread only, which may be inside PyTorch for long.
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
"""Exit status of a training run that was asked to stop: all is saved, start the same command again (EX_TEMPFAIL)."""
INTERRUPTED = 130
"""The same after Ctrl-C, as in shells."""

noted: list[Signals] = []
"""The signals that this process has received; the first one counts."""
training_began = threading.Event()
"""From then on a signal waits until somebody looks at `noted`; before, it ends this process at once."""

_ASKING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
_AGAIN = 1.0  # seconds; a terminal and a launcher may both deliver the same Ctrl-C
_first_interrupt: float | None = None
_listening = False


def status(asked: Signals) -> int:
    """The exit status after this signal."""
    return INTERRUPTED if asked == signal.SIGINT else REQUEUE


def hold_for_children() -> None:
    """Block the signals in processes that are spawned from now on, until they `listen` themselves."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)


def listen() -> None:
    """Take the signals from now on."""
    global _listening
    if not _listening and threading.current_thread() is threading.main_thread():
        _listening = True
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for asking in _ASKING:
            signal.signal(asking, lambda *_: None)
        threading.Thread(target=_read, args=(reader,), daemon=True).start()
        os.register_at_fork(after_in_child=_leave_it_to_the_parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)


def _read(reader: int) -> None:
    while True:
        for number in os.read(reader, 64):
            if number in _ASKING:
                _react(Signals(number))


def _react(asked: Signals) -> None:
    global _first_interrupt
    ranks = [child for child in list(multiprocessing.process._children) if isinstance(child, SpawnProcess)]  # type: ignore[attr-defined]
    if asked == signal.SIGINT:
        now = time.monotonic()
        if _first_interrupt is not None:
            if now - _first_interrupt > _AGAIN:
                logger.warning("SIGINT again: stopping at once, without saving")
                _send(signal.SIGKILL, ranks)
                _exit(INTERRUPTED)
            return
        _first_interrupt = now
    noted.append(asked)
    if len(noted) > 1:
        return
    # Ctrl-C reaches the ranks too, and a second SIGINT would stop them at once.
    _send(signal.SIGTERM if asked == signal.SIGINT else asked, ranks)
    if ranks:
        return
    if not training_began.is_set():
        logger.info(f"{asked.name}: no update was made yet, so nothing has to be saved; the same command starts again")
        _exit(status(asked))
    more = "; Ctrl-C again stops at once" if asked == signal.SIGINT else ""
    logger.info(f"{asked.name}: saving after this update, then stopping{more}")


def _send(number: int, ranks: list[SpawnProcess]) -> None:
    for rank in ranks:
        with suppress(ProcessLookupError):
            os.kill(rank.pid or 0, number)


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _leave_it_to_the_parent() -> None:
    """In a forked process, such as a data loader's: signals to a whole group or job step must not end it.

    The training run would die of it before it has saved. Its parent ends it with SIGTERM, and still can.
    """
    signal.set_wakeup_fd(-1)
    hold_for_children()
    threading.Thread(target=_obey_the_parent, daemon=True).start()


def _obey_the_parent() -> None:
    parent = os.getppid()
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(-signal.SIGTERM % 256)
