"""fairseq's log as figures, and its programs under a progress line."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.training import progress
from linformer_fairseq.training.progress import parse_line, program, run_logged

PYTHON = sys.executable  # before a test changes it
TRAIN = '2026-01-02 03:04:05 | INFO | train_inner | {"epoch": 1, "loss": "%s", "ppl": "%s", "num_updates": "%d"}\n'
VALID = (
    '2026-01-02 03:04:05 | INFO | valid | {"epoch": 1, "valid_loss": "9", "valid_ppl": "512", '
    '"valid_num_updates": "20", "valid_best_loss": "9"}\n'
)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the running Python, as far as `program` sees, for programs of a test's own."""
    monkeypatch.setattr(progress.sys, "executable", str(tmp_path / "python"))
    return tmp_path


def write_program(folder: Path, name: str, body: str) -> None:
    """An executable Python script."""
    path = folder / name
    path.write_text(f"#!{PYTHON}\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_training_and_validation_have_the_same_names() -> None:
    assert parse_line(TRAIN % ("9.5", "724", 10)) == {
        "split": "train", "epoch": 1, "loss": 9.5, "ppl": 724, "num_updates": 10,
    }  # fmt: skip
    valid = parse_line(VALID)
    assert valid is not None and valid["split"] == "valid"
    assert (valid["loss"], valid["ppl"], valid["num_updates"]) == (9, 512, 20)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "2026-01-02 03:04:05 | INFO | fairseq.trainer | begin training epoch 1\n",
        '2026-01-02 03:04:05 | INFO | train | {"train_loss": "9.5", "train_num_updates": "10"}\n',
    ],
)
def test_other_lines_hold_no_figures(line: str) -> None:
    assert parse_line(line) is None


def test_what_is_no_number_is_left_out() -> None:
    assert parse_line('x | valid | {"valid_loss": "2", "checkpoint": "a/b.pt", "none": null}') == {
        "split": "valid",
        "loss": 2,
    }


def test_real_programs_are_found_beside_python() -> None:
    (path, flag) = program(["fairseq-train", "--help"])
    assert Path(path).parent == Path(sys.executable).parent and flag == "--help"
    with pytest.raises(UsageError, match=r"fairseq-tain: missing"):
        program(["fairseq-tain"])


def test_programs_run_where_python_has_no_scripts_beside_it(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `pip install --user` or `--target`, or in an environment above another one."""
    assert "from fairseq_cli.train import cli_main as main" in program(["fairseq-train"])[3]
    entry = EntryPoint("fairseq-validate", "tarfile:main", "console_scripts")
    monkeypatch.setattr(progress, "entry_points", lambda group, name: [entry] if name == entry.name else [])
    (fake / "tarfile.py").touch()  # whatever lies in the folder where it is started
    monkeypatch.chdir(fake)
    command = program(["fairseq-validate", "--help"])
    assert command[0] == str(fake / "python")
    done = subprocess.run([PYTHON, *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: fairseq-validate")
    with pytest.raises(UsageError, match="fairseq-tain: missing"):
        program(["fairseq-tain"])


def test_output_goes_to_the_log_and_progress_to_the_screen(fake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = fake / "logs" / "train.log"
    write_program(fake, "train", f"print({TRAIN % (8, 256, 15)!r}, end='')\nprint({TRAIN % (7, 128, 20)!r}, end='')")
    for _ in range(2):
        run_logged(["train"], log, 20, "pretraining")
    assert log.read_text() == 2 * (TRAIN % (8, 256, 15) + TRAIN % (7, 128, 20))
    out, err = capfd.readouterr()
    assert not out
    assert "pretraining: 100%" in err and "20/20" in err and "perplexity 128.0" in err


def test_what_a_resumed_run_had_done_says_nothing_about_its_speed(
    fake: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [TRAIN % (8, 256, reached) for reached in (1000, 1010)]
    write_program(fake, "train", f"import time\nfor line in {lines!r}: print(line, end='', flush=True); time.sleep(1)")
    run_logged(["train"], fake / "train.log", 2000, "pretraining")
    shown = re.findall(r"1010/2000 .*?([\d.]+) updates/s", capfd.readouterr().err)
    assert shown and all(float(speed) <= 10 for speed in shown)


def test_without_updates_there_is_no_progress_line(fake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_program(fake, "validate", f"print({VALID!r})")
    run_logged(["validate"], fake / "validate.log")
    assert capfd.readouterr() == ("", "")


def test_a_failure_shows_the_end_of_the_log(fake: Path) -> None:
    write_program(fake, "train", "import sys\nfor i in range(99): print('line', i)\nsys.exit('no such data')")
    with pytest.raises(UsageError) as error:
        run_logged(["train"], fake / "train.log")
    message = str(error.value)
    assert message.startswith(f"train failed (exit status 1); the end of {fake / 'train.log'}:")
    assert "no such data" in message and "line 98" in message and "line 50" not in message


def test_a_program_that_was_interrupted_has_not_failed(fake: Path) -> None:
    write_program(fake, "train", "import sys\nsys.exit(130)")
    with pytest.raises(KeyboardInterrupt):
        run_logged(["train"], fake / "train.log")
