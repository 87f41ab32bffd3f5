"""One process at a time in a folder, whatever way the one before has ended."""

from __future__ import annotations

import os
import subprocess
import sys
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
    with locks.hold(tmp_path, "training run"):
        locks.hold(tmp_path, "training run").close()  # its own does not keep it out, and the first one still holds
        assert f"process {os.getpid()}" in (tmp_path / locks.NAME).read_text()
        assert not others_can_hold(tmp_path)
    os.killpg(holder.pid, 9)
    assert others_can_hold(tmp_path)


def test_a_file_can_be_the_lock(tmp_path: Path) -> None:
    with locks.hold(tmp_path / "grid.lock", "grid"):
        assert not others_can_hold(tmp_path / "grid.lock") and others_can_hold(tmp_path)
    assert others_can_hold(tmp_path / "grid.lock")
