"""One process under srun: its exit status, and how fast it is gone when it fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from linformer_fairseq.training.signals import REQUEUE

ROOT = Path(__file__).resolve().parents[2]
# The project's registration with fairseq takes seconds; all that matters here is that it comes after fairseq has set up
# logging.
RANK = """
import sys, types
sys.modules["linformer_fairseq.plugin"] = types.SimpleNamespace(register=lambda: sys.modules["fairseq_cli.train"])
from linformer_fairseq.launch.rank import main
assert not {"torch", "fairseq", "numpy"} & set(sys.modules), "signals are handled late"
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def rank(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a rank with a fairseq that only does what `body` says."""

    def start(body: str, procid: int = 0) -> subprocess.Popen[str]:
        fairseq = tmp_path / "fairseq_cli"
        fairseq.mkdir(exist_ok=True)
        (fairseq / "__init__.py").touch()
        (fairseq / "train.py").write_text(f"import sys\ndef cli_main():\n    {body}\n")
        environ = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "SLURM_PROCID": str(procid)}
        command = [sys.executable, "-c", RANK, "fairseq-train", "DATA", "--flag"]
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def test_fairseq_gets_its_arguments(rank: Callable[..., subprocess.Popen[str]]) -> None:
    process = rank("print(sys.argv)")
    assert process.communicate()[0] == "['fairseq-train', 'DATA', '--flag']\n"
    assert process.returncode == 0


@pytest.mark.parametrize(("procid", "status"), [(0, REQUEUE), (1, 0)])
def test_only_rank_0_asks_for_a_requeue(rank: Callable[..., subprocess.Popen[str]], procid: int, status: int) -> None:
    assert rank(f"sys.exit({REQUEUE})", procid).wait() == status


def test_a_sentence_is_printed(rank: Callable[..., subprocess.Popen[str]]) -> None:
    process = rank("sys.exit('error: a wrong flag')")
    assert process.communicate()[0] == "error: a wrong flag\n"
    assert process.returncode == 1


def test_a_failure_does_not_wait_for_anything(rank: Callable[..., subprocess.Popen[str]]) -> None:
    """A thread that never ends stands for the peers that NCCL waits for when Python exits."""
    process = rank("import threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); 1 / 0")
    assert "ZeroDivisionError" in process.communicate(timeout=60)[0]
    assert process.returncode == 1


def test_a_warning_before_the_training_has_begun(rank: Callable[..., subprocess.Popen[str]]) -> None:
    process = rank("print('begun', flush=True); import time; time.sleep(600)")
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == REQUEUE
