"""The frame of every measurement: its flags, its finished cells, its report. Read this first.

A script is a `Measurement`: it adds its flags, runs named cells, and makes Markdown of their results. A cell is a
function whose result is kept in OUT/cells as soon as it is finished, so the same command resumes where it was stopped.
"""

import argparse
import json
import logging
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from linformer_fairseq.errors import UsageError, exit_status
from linformer_fairseq.io.files import write_json, write_text
from linformer_fairseq.io.pool import executor
from linformer_fairseq.io.records import begun
from linformer_fairseq.ranges import real, whole

Options = argparse.Namespace
Work = Callable[[], Any]
Results = dict[str, Any]
"""Content of results.json: commands, machine, settings, cells by name, and perhaps a note that was added to it."""

FRAME = {"out", "report", "results", "quick", "rounds"}


@dataclass
class Cells:
    """The cells of a folder, each in a file of its own, so that several commands may add to them."""

    folder: Path
    command: str
    failed: list[str] = field(default_factory=list)

    def run(self, work: Mapping[str, Work], parallel: int = 1, again: bool = False) -> None:
        """Run the cells that are not finished, in the order given, or all `again`; `parallel` of them at a time.

        `work` is by the name of the cell, and its result must be JSON.
        """
        left = [name for name in work if again or not self._file(name).exists()]
        with tqdm(total=len(left), unit=" cells", disable=not left, smoothing=0) as bar:

            def one(name: str) -> None:
                bar.set_description(name)
                try:
                    result = work[name]()
                except BrokenProcessPool:
                    self.failed.append(name)
                else:
                    number = len(list(self.folder.glob("*.json")))
                    content = {"name": name, "number": number, "command": self.command, "result": result}
                    write_json(self._file(name), content)
                bar.update()

            with ThreadPoolExecutor(parallel) as pool:
                list(pool.map(one, left) if parallel > 1 else map(one, left))

    def turns(self, contestants: Mapping[str, Work], rounds: int) -> None:
        """Run the contestants in turns, so that a busy machine is busy for all; see `rounds_of`."""
        self.run({f"{name}, round {number}": work for number in range(rounds) for name, work in contestants.items()})

    def finished(self) -> dict[str, dict[str, Any]]:
        """Files of all finished cells by the name of the cell: its command and its result."""
        files = (json.loads(file.read_text(encoding="utf-8")) for file in self.folder.glob("*.json"))
        return {content["name"]: content for content in sorted(files, key=lambda content: int(content["number"]))}

    def _file(self, name: str) -> Path:
        return self.folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-').lower()}.json"


def rounds_of(cells: Mapping[str, Any], name: str) -> list[Any]:
    """Results of a contestant of `Cells.turns`, by round."""
    rounds = (f"{name}, round {number}" for number in range(len(cells)))
    return [cells[one] for one in rounds if one in cells]


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Work:
    """A cell that calls `function(*arguments)` in a process of its own, in which nothing has been computed before."""

    def work() -> Any:
        with executor(1, "fairseq.tasks") as (pool, _):  # imports take seconds: the processes are forked after them
            return pool.submit(function, *arguments).result()

    return work


class Flag(NamedTuple):
    """An argument of a script, made by `flag`."""

    name: str
    quick: Any  # its default with --quick
    cells: bool  # it chooses cells and changes none of them
    given: dict[str, Any]  # to `add_argument`


def flag(
    name: str, default: Any = None, about: str = "", quick: Any = None, cells: bool = False, least: int = 1, **more: Any
) -> Flag:
    """An argument with the type of its default, or a list of such values; with a type for a default, it must be given.

    `least` is that of whole numbers, and `more` goes to `add_argument`.
    """
    several = isinstance(default, list)
    one = (default or [""])[0] if several else default
    kind = one if isinstance(one, type) else type(one)
    if kind is bool:
        return Flag(name, quick, cells, {"action": "store_true", "help": about})
    given: dict[str, Any] = {"nargs": "+"} if several else {}
    if kind in (int, float, Path):
        given["type"] = {int: whole(least), float: real(0, 1e15), Path: Path}[kind]
    if name.startswith("--"):
        metavar = {int: "N", float: "X", Path: "PATH"}.get(kind, "NAME")
        given |= {"metavar": metavar, "required": isinstance(one, type)}
    if not isinstance(one, type):
        given["default"] = default
        about += f" (default: {' '.join(map(str, default)) if several else default})" if default else ""
    if "choices" in more:
        about += f": {', '.join(more['choices'])}"
    return Flag(name, quick, cells, given | {"help": about.strip()} | more)


def plain(**named: Any) -> list[Flag]:
    """Arguments that their names explain: the default of each, or a tuple of it and the default with --quick."""
    pairs = {name: given if isinstance(given, tuple) else (given, None) for name, given in named.items()}
    return [flag(f"--{name.replace('_', '-')}", default, quick=quick) for name, (default, quick) in pairs.items()]


@dataclass(frozen=True)
class Measurement:
    """One script."""

    file: str  # its `__file__`
    about: str | None  # its docstring, the text of --help
    arguments: Sequence[Flag]
    measure: Callable[[Options, Cells], None]  # runs the cells that the options ask for
    table: Callable[[Results], str]  # Markdown of the results
    pictures: Mapping[str, Callable[[Results, Path], None]] = field(default_factory=dict)  # by name of the PNG file

    def main(self, words: Sequence[str] | None = None) -> int:
        """The command line; returns the exit status."""
        words = sys.argv[1:] if words is None else words
        logging.basicConfig(level=logging.WARNING, force=True)  # importing fairseq has set it to tell everything
        return exit_status(as_typed(self.file, []), lambda: self._run(words))

    def flags(self, parser: argparse.ArgumentParser, quick: bool = False) -> None:
        """Add the arguments of this script alone."""
        for name, small, _, given in self.arguments:
            parser.add_argument(name, **given | ({"default": small} if quick and small is not None else {}))

    def _run(self, words: Sequence[str]) -> int:
        frame = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        frame.add_argument("--out", type=Path, metavar="DIR", help="folder of the finished cells (required)")
        frame.add_argument("--report", type=Path, metavar="PATH", help="folder or .md file to report to (default: OUT)")
        frame.add_argument("--results", type=Path, metavar="JSON", help="measure nothing: report on this results.json")
        quick = ", ".join(f"{one.name} {one.quick}" for one in self.arguments if one.quick is not None)
        frame.add_argument("--quick", action="store_true", help=f"try it in little time: {quick}")
        known, _ = frame.parse_known_args(words)
        if known.results is not None:
            if not known.results.is_file():
                raise UsageError(f"--results {known.results}: no such file")
            self._report(json.loads(known.results.read_text(encoding="utf-8")), known.report)
            return 0
        raw = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(as_typed(self.file, []), None, self.about, None, [frame], raw)
        self.flags(parser, known.quick)
        options = parser.parse_args(words)
        if options.out is None:
            parser.error("--out DIR is required, except with --results")
        left = FRAME | {one.name.lstrip("-").replace("-", "_") for one in self.arguments if one.cells}
        own = {name: value for name, value in vars(options).items() if name not in left}
        settings = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in own.items()}
        here = machine(getattr(options, "device", None))
        begun(options.out / "cells.json", settings | {"machine": here})
        cells = Cells(options.out / "cells", as_typed(self.file, words))
        self.measure(options, cells)
        found = cells.finished()
        results = {
            "commands": sorted({content["command"] for content in found.values()}),
            "machine": here,
            "settings": {name: value for name, value in settings.items() if "/" not in str(value)},  # no folders
            "cells": {name: content["result"] for name, content in found.items()},
        }
        self._report(results, options.report or options.out)
        if cells.failed:
            raise UsageError(f"{'; '.join(cells.failed)}: the process was killed, for lack of memory?")
        return 0

    def _report(self, results: Results, path: Path | None) -> None:
        """Print the table, and write it with its results and pictures if there is a path."""
        note = f"\n{results['note']}\n" if "note" in results else ""  # a remark that was added to results.json
        text = self.table(results) + note
        print(text)
        if path is not None:
            single = path.suffix == ".md"
            markdown = path if single else path / "table.md"
            markdown.parent.mkdir(parents=True, exist_ok=True)
            for name, draw in self.pictures.items():
                draw(results, markdown.with_name(name))
            write_text(markdown, text.rstrip("\n") + "\n")
            write_json(path.with_suffix(".json") if single else path / "results.json", results)


def as_typed(file: str, words: Sequence[str]) -> str:
    """A command as a report names it: without --out and --report, and with DATA for an absolute path."""
    left, script = iter(words), "/".join(Path(file).resolve().parts[-3:])
    shown = [word for word in left if not (word in ("--out", "--report") and next(left, None))]
    return shlex.join(["python", script, *(re.sub("(^|=)/.*", r"\1DATA", word) for word in shown)])


def machine(device: str | None = None) -> dict[str, str]:
    """What figures depend on: processor or GPU, and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    if device != "cpu" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    versions = {package: version(package) for package in ("torch", "ve-fairseq", "numpy")}
    return {"device": name, "python": platform.python_version(), **versions}


def heading(title: str, results: Results, about: str = "") -> str:
    """The head of a report: title, commands, machine and versions, and what was measured."""
    commands = "".join(f"    {command}\n" for command in results["commands"])
    found = results["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in found.items() if value and name != "device")
    return f"# {title}\n\n{commands}\n{found['device']}; {versions}. {about}".rstrip() + "\n\n"


def comparison(title: str, about: str = "", relative: str = "") -> Callable[[Results], str]:
    """What makes a table with a row for each contestant or cell, and a column for each of its figures by name.

    Fields are medians over the rounds, in brackets the least and the greatest. With `relative`, the last column is that
    figure as a multiple of the first row's. The settings are named in the order of the flags.
    """

    def table(results: Results) -> str:
        cells = results["cells"]
        names = list(dict.fromkeys(re.sub(r", round \d+$", "", name) for name in cells))
        runs = {name: rounds_of(cells, name) or [cells[name]] for name in names}
        columns = list(dict.fromkeys(figure for found in runs.values() for figure in found[0]))
        rows = [[name, *(spread([run.get(c) for run in found]) for c in columns)] for name, found in runs.items()]
        if relative:
            medians = [median(run[relative] for run in found) for found in runs.values()]
            rows = [[*row, f"{value / medians[0]:.2f}"] for row, value in zip(rows, medians, strict=True)]
            columns.append(f"{relative}, relative")
        settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in results["settings"].items())
        return heading(title, results, f"{settings}. {about}") + markdown(["", *columns], rows)

    return table


def spread(values: Sequence[Any]) -> str:
    """The field of a table for the values of all rounds; of texts, the first."""
    if not all(isinstance(value, int | float) for value in values):
        return "" if values[0] is None else str(values[0])
    found = (median(values), min(values), max(values))
    shown = [f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" for value in found]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]}-{shown[2]})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are aligned left; None is an empty field."""
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *rows]
    fields = (" | ".join("" if value is None else str(value) for value in line) for line in lines)
    return "".join(f"| {line} |\n" for line in fields)


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """What a call takes by a clock."""
    start = clock()
    work()
    return clock() - start


def status(key: str, file: str = "self/status") -> int:
    """Bytes of a line of a file in /proc: of this process VmRSS (resident), VmHWM (its peak), RssAnon (no file's)."""
    lines = Path("/proc", file).read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


def forget_peak() -> None:
    """Let VmHWM of this process begin anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
