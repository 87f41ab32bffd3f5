"""How commands end: with a status, and with one sentence where a person can correct something."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from linformer_fairseq.errors import AGAIN, UsageError, as_one_sentence, exit_status


def ends_with(error: BaseException) -> int:
    def command() -> int:
        raise error

    return exit_status("linformer test", command)


def test_the_status_of_a_command_is_kept() -> None:
    assert [exit_status("linformer test", partial(int, status)) for status in (0, 1, 75)] == [0, 1, 75]


PRINTS = """
import sys
from linformer_fairseq.errors import exit_status

def run():
    for _ in range(int(sys.argv[1])):
        print("a line of the output")
    return 0

sys.exit(exit_status("linformer test", run))
"""


@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_that_nobody_reads_is_no_error(lines: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", PRINTS, str(lines)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_an_error() -> None:
    with pytest.raises(BrokenPipeError):
        ends_with(BrokenPipeError(errno.EPIPE, "of a worker"))


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "\nlinformer test: stopped; the same command resumes from here\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UsageError("--k 0: must be above 0"), "--k 0: must be above 0"),
        (BrokenProcessPool(), "a worker process died, .* fewer --workers"),
        (ModuleNotFoundError(name="transformers.models"), r"pip install -e '.\[hf\]' from a clone"),
        (ModuleNotFoundError(name="google.protobuf"), "package protobuf is missing: .* or pip install protobuf$"),
        (ModuleNotFoundError(name="submitit"), r"package submitit is missing: pip install -e '.\[slurm\]'"),
        (OSError(errno.ENOSPC, "No space left", "a.bin"), "a.bin: no space left; free some"),
        (OSError(errno.EIO, "Input/output error", "c.bin"), "c.bin: Input/output error; check that disk"),
        (PermissionError(errno.EACCES, "Permission denied", "b.bin"), "b.bin: Permission denied; give access"),
    ],
    ids=str,
)
def test_what_a_person_can_correct_is_one_sentence(
    error: Exception, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LINFORMER_DEBUG", raising=False)
    assert ends_with(error) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"linformer test: error: .*{sentence}", line)
    monkeypatch.setenv("LINFORMER_DEBUG", "1")
    with pytest.raises(type(error)):
        ends_with(error)


@pytest.mark.parametrize("error", [ValueError("a bug"), ModuleNotFoundError(name="nonsense"), OSError("a bug")])
def test_what_nobody_expects_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        ends_with(error)


def test_where_fairseq_calls_us_the_program_ends_with_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINFORMER_DEBUG", raising=False)
    with pytest.raises(SystemExit, match="^error: wrong flag$"), as_one_sentence():
        raise UsageError("wrong flag")
    monkeypatch.setenv("LINFORMER_DEBUG", "1")
    with pytest.raises(UsageError), as_one_sentence():
        raise UsageError("wrong flag")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_for_numpy_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> int:
        np.zeros(1 << 20).tofile("/dev/full")
        return 0

    assert exit_status("x", write) == 1
    assert capsys.readouterr().err == f"x: error: the disk: no space left; free some, and {AGAIN}\n"


def test_a_full_disk_ends_fairseqs_programs_in_one_sentence() -> None:
    with pytest.raises(SystemExit, match="^error: a.bin: no space left"), as_one_sentence():
        raise OSError(errno.ENOSPC, "No space left", "a.bin")
