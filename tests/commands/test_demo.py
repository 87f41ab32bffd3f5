"""The demo from its first to its last step, in miniature: the docstrings of two packages, a handful of updates."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch.distributed

from linformer_fairseq.commands import demo
from linformer_fairseq.training.metrics import read_metrics


def start(out: Path, updates: int) -> subprocess.Popen[str]:
    """The demo in a process group of its own, as in a terminal."""
    packages = [str(Path(package.__path__[0])) for package in (numpy, torch.distributed)]
    return subprocess.Popen(
        [sys.executable, "-m", "linformer_fairseq", "demo", "--out", str(out), "--updates", str(updates)]
        + ["--packages", *packages],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def run(out: Path, updates: int) -> str:
    """What the demo prints."""
    with start(out, updates) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output[-5000:]
    return output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and output of a demo of 4 updates."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run(out, 4)


@pytest.mark.slow
def test_every_step_leaves_its_result(finished: tuple[Path, str]) -> None:
    out, output = finished
    assert re.findall(r"^== (\d)/5", output, re.MULTILINE) == list("12345")
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    metrics = read_metrics(out / "checkpoints")
    assert max(line["update"] for line in metrics) == 4
    assert {line["split"] for line in metrics} == {"train", "valid"}
    assert not (out / "metrics.jsonl").exists(), "the same figures twice"
    for path in ("checkpoints/checkpoint_last.pt", "data", "loss.png"):
        assert str(out / path) in output.partition("Done: ")[2] and (out / path).exists()
    assert "Next:" in output


@pytest.mark.slow
def test_the_second_half_is_trained_from_the_checkpoint_of_the_first(finished: tuple[Path, str]) -> None:
    out, output = finished
    log = (out / "train.log").read_text()
    assert re.findall(r"Loaded checkpoint (\S+) \(epoch \d+ @ (\d+) updates", log) == [
        (str(out / "checkpoints/checkpoint_last.pt"), "2")
    ]
    assert "resumed from update 2, trained to update 4" in output


@pytest.mark.slow
def test_validation_and_the_mask_come_from_the_trained_model(finished: tuple[Path, str]) -> None:
    out, output = finished
    last = read_metrics(out / "checkpoints")[-1]
    (perplexity,) = re.findall(r"^perplexity (\S+)$", output, re.MULTILINE)
    assert last["split"] == "valid" and float(perplexity) == pytest.approx(last["perplexity"], rel=0.2)  # other masks
    shares = [float(share) for share in re.findall(r"^ +(\d+\.\d)%  \S+$", output, re.MULTILINE)]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True) and sum(shares) <= 100


@pytest.mark.slow
def test_a_second_run_trains_nothing(finished: tuple[Path, str]) -> None:
    out, _ = finished
    before = (out / "train.log").read_text()
    output = run(out, 4)
    assert (out / "train.log").read_text() == before
    assert output.count("already finished") == 4 and output.count("already trained to update 4") == 2


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_resumes(finished: tuple[Path, str]) -> None:
    out, _ = finished
    log = out / "train.log"
    with start(out, 60) as process:
        while process.poll() is None and demo.last_update(log, "Saved") < 6:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate()
    assert process.returncode == 130, output[-5000:]
    assert output.endswith("linformer demo: stopped; the same command resumes from here\n")
    reached = demo.last_update(log, "Saved")
    assert 6 <= reached < 30
    assert f"resumed from update {reached}, trained to update {reached + 2}" in run(out, reached + 2)


def test_the_last_checkpoint_of_a_log_counts(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    assert demo.last_update(log, "Saved") == 0
    log.write_text(
        "Saved checkpoint a/checkpoint_1_2.pt (epoch 1 @ 2 updates, score 9.1) (writing took 0.1 seconds)\n"
        "Loaded checkpoint a/checkpoint_last.pt (epoch 1 @ 2 updates)\n"
        "Saved checkpoint a/checkpoint_last.pt (epoch 2 @ 1500 updates, score 8) (writing took 0.1 seconds)\n"
    )
    assert (demo.last_update(log, "Saved"), demo.last_update(log, "Loaded")) == (1500, 2)
