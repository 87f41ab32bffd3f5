"""`metrics.jsonl`: what a training run did, one line of JSON for each log interval and each validation.

    split, update, epoch    "train", or the subset that was validated; the update after which the line was written
    start                   which start of the run wrote it, from 1 on (`run/environment.json` has one entry each)
    loss, loss_unit         fairseq's loss and what it counts: "bits per masked token" for masked_lm
    perplexity              2^loss, of criterions that report it
    lr, gradient_norm       learning rate of the next update; norm of the gradient before it is clipped
    loss_scale              of --fp16 and --amp, else null
    tokens_per_second       of all processes; validating and saving left out
    flops_per_second        of all processes, of the model (see flops.py); null for a model that we cannot count
    hardware_share          of what the hardware could do at best (see hardware.py), null where that is not known
    memory_bytes            at most: allocated on rank 0's GPU in the last update, or occupied by rank 0 in main memory
    joules                  drawn by rank 0's GPU since this start, null without NVML (`pip install nvidia-ml-py`)
    time, seconds           wall clock (UTC); seconds of all starts, repeated work included
    tokens                  that the model had been trained on, repeated work counted once
    other                   whatever else the criterion reports, by fairseq's names: accuracy, …

The lines of training are means over the log interval (--log-interval). What is not a finite number is null.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FILE = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` (or of it in the folder `path` of a run) in the order of the updates.

    A run that was killed resumes from its last checkpoint and repeats some updates; of these, the lines of the later
    start count. Lines that are not whole, as a power failure leaves them, are left out.
    """
    kept: list[dict[str, Any]] = []
    for line in _lines(path / FILE if path.is_dir() else path):
        while kept and kept[-1]["start"] < line["start"] and kept[-1]["update"] >= line["update"]:
            kept.pop()
        kept.append(line)
    return kept


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and {"update", "start"} <= line.keys():
                yield line


class MetricsFile:
    """Appends to `metrics.jsonl` in the folder of a run; each line in one system call, so that it is whole or absent.

    `start` is the number of this start, from 1 on, and `seconds_before` the seconds of all earlier ones.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self.path = folder / FILE
        self.start = start
        self._cut = False
        self.seconds_before = 0.0
        self._earlier: list[dict[str, Any]] = []
        if self.path.exists():
            self._earlier = read_metrics(self.path)
            self.seconds_before = max((line.get("seconds") or 0.0 for line in _lines(self.path)), default=0.0)
            self._cut = not self.path.read_bytes().endswith(b"\n")

    def tokens_until(self, update: int) -> tuple[int, int | None]:
        """The last update, at most `update`, whose tokens a line tells, and the tokens (None without such a line).

        That is a line of training, after which the next log interval begins, or one of `update` itself.
        """
        if update == 0:
            return 0, 0
        known = [
            (line["update"], line["tokens"])
            for line in self._earlier
            if line.get("tokens") is not None
            and (line["update"] == update or (line["update"] < update and line.get("split") == "train"))
        ]
        return max(known, default=(0, None))

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line; `start` is added. A full disk stops no run: it causes a warning."""
        text = json.dumps({**{key: _plain(value) for key, value in line.items()}, "start": self.start}) + "\n"
        if self._cut:  # by a power failure or a full disk; this line must not become part of that one
            text = "\n" + text
        try:
            with self.path.open("ab", buffering=0) as file:
                self._cut = file.write(text.encode()) < len(text.encode())
        except OSError as error:
            logger.warning("%s lacks the line of update %s (%s)", self.path, line.get("update"), error)


def _plain(value: Any) -> Any:
    """`value` for JSON, which has no NaN: None for what is not a finite number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
