"""Commands in this process, as Python would run them; what they become or call runs in it or in a fork of it."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def alone(words: list[str]) -> int:
    """`run`, in a process that does nothing else."""
    os.execv = _become  # type: ignore[assignment]
    subprocess.call = _call  # type: ignore[assignment]
    sys.argv = words
    return run(words)


def run(words: list[str]) -> int:
    """Run a command; the result is its exit status."""
    program, *argv = words
    if program.endswith(".py"):
        return int(runpy.run_path(str(ROOT / program))["MEASUREMENT"].main(argv))
    if program == "fairseq-train":
        return _become(program, words)
    if program == "linformer":
        from linformer_fairseq.cli import main
    else:
        from data_prep.__main__ import main
    return main(argv)


def _become(_: str, command: list[str]) -> Any:
    from fairseq_cli.train import cli_main

    sys.argv = command
    cli_main()
    raise SystemExit(0)


def _call(command: list[str], env: Mapping[str, str] | None = None) -> int:
    module, *argv = [word for word in command[1:] if word not in ("-u", "-m")]
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.environ.update(env or {})
    sys.argv = ["", *argv]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    raise SystemExit(0)
