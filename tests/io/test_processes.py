"""Processes that tell each other apart, and programs that end with their parent."""

from __future__ import annotations

import os
import time

from linformer_fairseq.io import processes


def test_a_process_is_alive_until_it_ends_and_others_are_not_known() -> None:
    assert processes.alive(processes.own_name()) is True
    machine, _, number = processes.own_name().partition(".")
    assert processes.alive(f"{machine}.{number.partition('-')[0]}-1") is False  # an earlier one with its number
    assert processes.alive(f"elsewhere.{number}") is None and processes.alive("") is None


def test_a_program_ends_with_the_process_that_has_started_it() -> None:
    """Though that one is killed; what the program itself starts has no such parent in its environment."""
    reader, writer = os.pipe()
    parent = os.fork()
    if not parent:
        os.environ.update(processes.child_environment())
        if not os.fork():
            processes.end_with_parent()
            os.write(writer, b"PARENT" if processes._PARENT in os.environ else b"started")
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
    os.close(writer)
    assert os.read(reader, 100) == b"started"
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    assert os.read(reader, 100) == b""  # nobody has it open
    os.close(reader)
