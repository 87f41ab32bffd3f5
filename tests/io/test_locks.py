"""One process at a time in a folder, whatever way the one before has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io import locks

HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from linformer_fairseq.io import locks

locks.hold(Path(sys.argv[1]), "training run")
multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True).start()
print("held", flush=True)
time.sleep(60)
"""

TRIES = """
import sys
from pathlib import Path
from linformer_fairseq.io import locks

locks.hold(Path(sys.argv[1]), "run", patience=0)
"""


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    """Let go of what a test holds, as the end of a process does."""
    yield
    locks._release()


def others_can_hold(path: Path) -> bool:
    return subprocess.run([sys.executable, "-c", TRIES, path], capture_output=True).returncode == 0


def test_keeps_others_out_until_a_kill(tmp_path: Path) -> None:
    """The holder's child, like a data loader, outlives it and does not keep the lock."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, start_new_session=True)
    assert holder.stdout is not None
    assert any(line == b"held\n" for line in iter(holder.stdout.readline, b""))
    with pytest.raises(UsageError, match=rf"{tmp_path} is in use by another training run .*process {holder.pid}\)"):
        locks.hold(tmp_path, "training run", patience=0)
    holder.kill()
    holder.wait()
    for _ in range(2):  # its own does not keep it out
        locks.hold(tmp_path, "training run")
        assert f"process {os.getpid()}" in (tmp_path / locks.NAME).read_text()
        assert not others_can_hold(tmp_path)
    os.killpg(holder.pid, 9)
    locks._release()
    assert others_can_hold(tmp_path)


def test_a_link_in_place_of_the_lock_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    (tmp_path / locks.NAME).symlink_to("mine")
    with pytest.raises(UsageError, match="is a link"):
        locks.hold(tmp_path, "run", patience=0)
    assert (tmp_path / "mine").read_text() == "text"


@pytest.mark.parametrize("gone", ["lock", "folder"])
def test_a_lock_that_was_removed_is_made_again(tmp_path: Path, gone: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    locks.hold(folder, "run")
    (folder / locks.NAME).unlink()
    if gone == "folder":
        folder.rmdir()
    locks.keep(folder, "run")
    assert not others_can_hold(folder)
    locks._release()
    assert others_can_hold(folder)


def test_a_lock_that_another_has_taken_meanwhile_is_noticed(tmp_path: Path) -> None:
    locks.hold(tmp_path, "run")
    (tmp_path / locks.NAME).unlink()
    assert others_can_hold(tmp_path)  # and has ended again
    with pytest.raises(UsageError, match="another run has used"):
        locks.keep(tmp_path, "run")
    locks._release()
    locks.keep(tmp_path, "run")  # nothing is held any more


def test_a_lock_that_is_replaced_while_one_waits_for_it_is_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has opened the file locks it after it was removed: the one in the folder is locked instead."""
    flock, calls = locks.fcntl.flock, []

    def removed_first(descriptor: int, how: int) -> None:
        if not calls:
            (tmp_path / locks.NAME).unlink()
        calls.append(descriptor)
        flock(descriptor, how)

    monkeypatch.setattr(locks.fcntl, "flock", removed_first)
    locks.hold(tmp_path, "run")
    monkeypatch.undo()
    assert len(calls) == 2 and not others_can_hold(tmp_path)
