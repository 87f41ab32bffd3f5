"""The script as it stands, on 8 nodes with 8 GPUs each: 64 processes meet, train and save. Needs 20 GB of memory.

`LINFORMER_64=1 pytest tests/slurm/test_64_processes.py -s` says how long it took.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, missing, wait_for

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.mark.skipif("LINFORMER_64" not in os.environ, reason="needs 20 GB of memory; LINFORMER_64=1 runs it")
def test_64_processes_train(
    job_environment: Callable[[Path], dict[str, str]], tiny_flags: list[str], tmp_path: Path
) -> None:
    if reason := missing():
        pytest.skip(reason)
    run = tmp_path / "run"
    (tmp_path / "hold").write_text("5")
    environ = {**job_environment(run), "HOLD": str(tmp_path / "hold")}
    del environ["NODES"], environ["GPUS"], environ["SBATCH_EXCLUSIVE"]
    # not --num-workers 1: that would be 64 processes more
    flags = [*tiny_flags, "--max-update", "5", "--num-workers", "0", "--batch-size", "1"]
    cluster = Cluster(nodes=8, gpus=8)
    try:
        began = time.monotonic()
        said = cluster.run("sbatch", "slurm/pretrain.sh", *flags, env=environ, cwd=ROOT)
        job = said.split()[-1]
        wait_for(900, lambda: cluster.job(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), "the end")
        seconds = time.monotonic() - began
        state = cluster.job(job)
        log = (tmp_path / "run.log").read_text()
        assert (state["JobState"], state["NumNodes"], state["NumTasks"]) == ("COMPLETED", "8", "64"), log
        assert state["TresPerNode"] == "gres:gpu:8"
    finally:
        cluster.stop()
    output = next((run / "logs").glob("*-0.log")).read_text()
    assert "training on 64 devices" in output
    assert re.findall(r'"num_updates": "(\d+)"', output)[-1] == "5"
    assert (run / "checkpoint_last.pt").exists()
    print(f"64 processes on {os.cpu_count()} processors: {seconds:.0f} s from sbatch to the end")
