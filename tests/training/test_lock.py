"""One training at a time in a folder, whatever way the one before has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.training import lock

HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from linformer_fairseq.training import lock

lock.take(Path(sys.argv[1]))
multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True).start()
print("held", flush=True)
time.sleep(60)
"""


def test_keeps_others_out_until_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder's child, like a data loader, outlives it and does not keep the lock."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, start_new_session=True)
    assert holder.stdout is not None
    assert any(line == b"held\n" for line in iter(holder.stdout.readline, b""))
    monkeypatch.setattr(lock, "PATIENCE", 0)
    with pytest.raises(UsageError, match=rf"--save-dir .* is in use .*process {holder.pid}"):
        lock.take(tmp_path)
    holder.kill()
    holder.wait()
    lock.take(tmp_path)
    lock.take(tmp_path)  # its own does not keep it out
    assert f"process {os.getpid()}" in (tmp_path / lock.NAME).read_text()
    os.killpg(holder.pid, 9)
