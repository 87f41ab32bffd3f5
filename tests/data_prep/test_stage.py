"""Half-written files of killed processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from linformer_fairseq.io.files import DAY, replace_when_done, sweep


def half_written(folder: Path, name: str, host: str, process: int, age: float = 0) -> Path:
    """A partial file as another process leaves it."""
    path = folder / f".{name}.{host}.{process}.partial"
    path.touch()
    os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    return path


def test_what_the_dead_left_is_removed_and_what_the_living_write_stays(tmp_path: Path) -> None:
    here = socket.gethostname().split(".")[0]
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    (tmp_path / "train").mkdir()
    dead = half_written(tmp_path / "train", "a.parquet", here, process.pid)
    elsewhere = half_written(tmp_path, "b.parquet", "node7", 1)
    forgotten = half_written(tmp_path, "c.parquet", "node7", 1, age=DAY + 60)
    with replace_when_done(tmp_path / "d.parquet") as ours:
        ours.touch()
        sweep(tmp_path)
        assert ours.exists()
    assert elsewhere.exists() and not dead.exists() and not forgotten.exists()
    assert (tmp_path / "d.parquet").exists()
