"""Running fairseq's programs: their log in a file, one progress line on the screen, figures from the log."""

import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tqdm import tqdm

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.processes import child_environment
from linformer_fairseq.training.signals import INTERRUPTED

# train_inner: every --log-interval updates; valid: after each validation. "train" repeats these per epoch.
_FIGURES = re.compile(r"\| (train_inner|valid) \| (\{.*\})$")
# What a progress line shows: the first of these that the criterion reports.
_SHOWN = {"ppl": "perplexity", "accuracy": "accuracy"}


def program(argv: Sequence[str]) -> list[str]:
    """`argv` with a program of fairseq that the running Python runs, whatever PATH says.

    Its file is beside this Python; elsewhere after `pip install --user` or `--target`, and above another environment.
    """
    path = Path(sys.executable).with_name(argv[0])
    if path.exists():
        return [str(path), *argv[1:]]
    for entry in entry_points(group="console_scripts", name=argv[0]):
        code = (
            f"import sys; from {entry.module} import {entry.attr} as main; sys.argv[0] = {argv[0]!r}; sys.exit(main())"
        )
        return [sys.executable, "-P", "-c", code, *argv[1:]]
    raise UsageError(f"{path}: missing; run this with the Python of the environment that has fairseq")


def run_logged(argv: Sequence[str], log: Path, updates: int = 0, label: str = "") -> None:
    """Run a fairseq command that has `--log-format json`, and append what it prints to `log`.

    `updates`, of the whole run, are for a progress line with the remaining time and `label`; without, there is none.
    UsageError if the program failed, and KeyboardInterrupt at Ctrl-C, after a training run has saved.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "errors": "replace"}
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(program(argv), env=child_environment(), **output) as process,
        tqdm(total=updates, desc=label, unit=" updates", disable=not updates) as bar,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                figures = parse_line(line)
                if updates and figures is not None and figures["split"] == "train":
                    name = next((name for name in _SHOWN if name in figures), "loss")
                    bar.set_postfix_str(f"{_SHOWN.get(name, name)} {figures.get(name, math.nan):.1f}", refresh=False)
                    reached = int(figures["num_updates"])
                    if not bar.n:  # what a run that resumes had done before says nothing about its speed
                        bar.initial = bar.last_print_n = reached
                    bar.update(reached - bar.n)
        except KeyboardInterrupt:
            # A training run saves and ends, whether or not the terminal has told it too; its output must be read.
            process.send_signal(signal.SIGINT)
            file.writelines(process.stdout)
            raise
    if process.returncode == INTERRUPTED:  # it alone was told; Python drops an interrupt that comes during a destructor
        raise KeyboardInterrupt
    if process.returncode != 0:
        end = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-12:])
        raise UsageError(f"{argv[0]} failed (exit status {process.returncode}); the end of {log}:\n{end}")


def parse_line(line: str) -> dict[str, Any] | None:
    """The figures in one line of fairseq's log, or None for a line without figures.

    They are `split` ("train" or "valid") and numbers, under the same names for both: `num_updates`, `loss` (bits per
    masked token), `ppl`, `lr`, `wps` (tokens per second), …
    """
    match = _FIGURES.search(line)
    if match is None:
        return None
    figures: dict[str, Any] = {"split": "train" if match[1] == "train_inner" else "valid"}
    for key, value in json.loads(match[2]).items():
        with suppress(TypeError, ValueError):  # a path, or None before the first best checkpoint
            figures[key.removeprefix("valid_")] = float(value)
    return figures
