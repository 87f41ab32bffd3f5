"""`fairseq-train` with a clock: `python timed_train.py RESULT.json [--profile N --k K] -- ARGUMENTS`.

The time of an update is that between the ends of two: its batch, the update itself, and what is logged. Nothing of
this project is imported here, as `examples/linformer` must be measured without it; `--user-dir` brings it where asked.
With `--profile N` the last N updates are recorded, and where their time went is in the result (`anatomy.py`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from fairseq_cli import train  # before the rest of fairseq, which would set up logging in its place

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recipes.reproduce.updates.anatomy import Recorder  # noqa: E402


class Clock:
    """The ends of all updates, the tokens and the loss of each."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tokens: list[int] = []
        self.losses: list[float] = []
        self.parameters = 0

    def watch(self, recorder: Recorder | None) -> None:
        """Stamp the end of every call of Trainer.train_step, before anything else wraps it."""
        step: Callable[..., Any] = train.Trainer.train_step

        @wraps(step)
        def train_step(trainer: Any, samples: Any, *arguments: Any, **named: Any) -> Any:
            logged = step(trainer, samples, *arguments, **named)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            self.tokens.append(sum(int(sample["ntokens"]) for sample in samples))
            self.losses.append(float(logged["loss"]))
            self.parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
            if recorder is not None:
                recorder.after_update(trainer)
            return logged

        train.Trainer.train_step = train_step

    def result(self) -> dict[str, Any]:
        """Seconds of each update but the first, which has no beginning; all else is of every update."""
        return {
            "seconds": [later - earlier for earlier, later in zip(self.ends, self.ends[1:], strict=False)],
            "tokens": self.tokens,
            "losses": self.losses,
            "parameters": self.parameters,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "threads": torch.get_num_threads(),
        }


def main() -> None:
    """Train as the arguments after `--` say, and write the result when it has ended well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--profile", type=int, default=0, metavar="N")
    parser.add_argument("--k", type=int, default=0, help="projected length, which attention's scores are known by")
    split = sys.argv.index("--")
    options = parser.parse_args(sys.argv[1:split])
    sys.argv = ["fairseq-train", *sys.argv[split + 1 :]]
    recorder = Recorder(options.profile, options.k) if options.profile else None
    clock = Clock()
    clock.watch(recorder)
    try:
        train.cli_main()
    except SystemExit as end:
        if end.code:
            raise
    result = clock.result()
    if recorder is not None:
        result["anatomy"] = recorder.result()
    part = options.result.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1))
    os.replace(part, options.result)
    # fairseq's loader thread sometimes aborts an interpreter that ends; all is written.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
