"""What the files of a training run say, while it goes on too: figures, starts and their ends, settings, data."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from linformer_fairseq.errors import UsageError
from linformer_fairseq.training.metrics import FILE, read_metrics

CHECKPOINTS = ("checkpoint_best.pt", "checkpoint_last.pt")
RESULT = "result.json"  # of a fine-tuning
_LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d [\d:,]+) \| (\w+) \| (\S+) \| (.*)")
_START = re.compile(r"start (\d+) of this run")
_STOPPED = ("linformer_fairseq.training.interrupt", "linformer_fairseq.training.signals")


class Run:
    """A folder of a training run, or of fine-tunings; UsageError if it is neither."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.resolve().name
        self.lines = read_metrics(folder) if (folder / FILE).is_file() else []
        for line in self.lines:
            line["hours"] = None if line.get("seconds") is None else line["seconds"] / 3600
        self.results = sorted(folder.rglob(RESULT))
        if not self.lines and not self.results:
            raise UsageError(f"{folder}: has neither {FILE} of a training run nor {RESULT} of a fine-tuning; name one")

    @property
    def best(self) -> dict[str, Any] | None:
        """The line of the best validation, if there was one."""
        valid = (line for line in self.lines if line["split"] != "train" and line.get("loss") is not None)
        return min(valid, key=lambda line: float(line["loss"]), default=None)

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """The entries of `run/environment.json`; none if it is missing."""
        with suppress(OSError, ValueError):
            return list(json.loads((self.folder / "run/environment.json").read_text(encoding="utf-8")))
        return []

    @cached_property
    def settings(self) -> dict[str, str]:
        """`run/config.yaml`, by dotted names; empty if it is missing."""
        with suppress(OSError, yaml.YAMLError):
            return dict(_flat(yaml.safe_load((self.folder / "run/config.yaml").read_text(encoding="utf-8")), ""))
        return {}

    @property
    def data(self) -> Path | None:
        """The first folder of its data, if its settings name one."""
        named = self.settings.get("task.data", "").split(":")[0]
        return Path(self.starts[-1]["folder"] if self.starts else ".", named) if named else None

    @property
    def manifest(self) -> dict[str, Any] | None:
        """`manifest.json` of the preparation of its data, if it is where `linformer prepare run` writes it."""
        for folder in list(self.data.parents)[:2] if self.data else []:
            with suppress(OSError, ValueError):
                return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
        return None

    @property
    def checkpoint(self) -> Path | None:
        """The best checkpoint, or else the last one."""
        return next((path for path in (self.folder / name for name in CHECKPOINTS) if path.is_file()), None)

    def ends(self) -> dict[int, str]:
        """Why each start has ended, by its number, for those of which the logs of its processes tell."""
        events = sorted(event for log in (self.folder / "run/logs").glob("rank-*.log") for event in _events(log))
        found: dict[int, tuple[int, str]] = {}
        start = 0
        for _, rank, text in events:
            if begins := _START.match(text):
                start = int(begins[1])
            elif start and rank < found.get(start, (9, ""))[0]:
                found[start] = rank, text
        return {start: text for start, (_, text) in found.items()}


def _events(log: Path) -> Iterator[tuple[str, int, str]]:
    """Time, rank of its kind and text of the lines that tell of a start or an end; the first of the lowest rank counts.

    Errors come before requests to stop, the end of the training, and the exit status of a process.
    """
    entries: list[list[str]] = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if found := _LOG_LINE.match(line):
            entries.append([*found.groups()])
        elif entries and entries[-1][1] == "ERROR" and line.strip():
            entries[-1][3] = line.strip()  # the last line of a traceback names the error
    for time, level, logger, text in entries:
        if level == "ERROR":
            yield time, 0, f"{text} ({log.stem})"
        elif logger in _STOPPED:
            yield time, 1, text
        elif text.startswith("done training"):
            yield time, 2, text
        elif _START.match(text) or text.startswith("this process ends"):
            yield time, 3, text


def _flat(settings: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _flat(value, f"{name}.{key}".strip("."))
    else:
        yield name, str(settings)
