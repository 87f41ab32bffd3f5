"""Short runs of the real fairseq-train that show what a GPU makes of each precision; `recipes/measure/gpu_check.py`."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.planning.memory import training_bytes
from linformer_fairseq.planning.plan import plan_of
from linformer_fairseq.training.metrics import read_metrics
from linformer_fairseq.training.progress import parse_line
from linformer_fairseq.training.signals import REQUEUE

PRECISIONS: dict[str, tuple[str, ...]] = {"fp32": (), "fp16": ("--fp16",), "amp": ("--amp",), "bf16": ("--bf16",)}
PRECISIONS["memory-efficient fp16"] = ("--memory-efficient-fp16",)
PAIRS = {"plain": ("adam", "masked_lm"), "fused": ("fused_adamw", "fused_masked_lm")}
ROWS = {512: 32, 4096: 4, 16384: 1}  # of a batch, by length
WORDS = 400


@dataclass
class Runs:
    """The steps, in order; each returns its figures. Runs of a step are beside each other on a GPU."""

    cpu: bool
    folder: Path

    @property
    def data(self) -> Path:
        """Folder of binarised text."""
        if not (data := self.folder / "data").exists():
            rng = random.Random(0)
            words = [f"w{number}" for number in range(WORDS)]
            for split, count in (("train", 2000), ("valid", 20)):
                starts = rng.choices(range(WORDS), k=count)
                lines = (" ".join(words[(start + i) % WORDS] for i in range(60)) for start in starts)
                (self.folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
            texts = ("--trainpref", self.folder / "train.txt", "--validpref", self.folder / "valid.txt")
            preprocess = [program("preprocess"), "--only-source", "--destdir", data, *texts]
            subprocess.run([*map(str, preprocess)], check=True, capture_output=True)
        return data

    def training(self) -> dict[str, Any]:
        """Last loss of a tiny model after 200 updates in each precision, with each optimizer and criterion."""
        kinds = list(product(self._modes(), PAIRS))
        return self._each({f"{mode}, {pair}": (self._loss, mode, pair) for mode, pair in kinds})

    def resuming(self) -> dict[str, Any]:
        """Largest difference of a parameter after a signal and a new start from the run that was not disturbed.

        Beside it, the difference of a second undisturbed run: a GPU adds up in no fixed order.
        """
        return self._each({mode: (self._resumed, mode) for mode in self._modes()})

    def overflow(self) -> dict[str, int]:
        """How many updates are skipped when the first scale of the loss is far too large."""
        if self.cpu:
            return {}
        _, overflows = self._tiny("fp16", "fused", "overflow", "--fp16-init-scale", "1073741824")
        return {"overflows": overflows}

    def memory(self) -> dict[str, Any]:
        """Peak of three updates of a base model (GB), beside what `linformer plan` computes."""
        if self.cpu:
            return {}
        self._large_dictionary()
        modes = [mode for mode in self._modes() if mode != "amp"]
        kinds = product(modes, ROWS, (False, True))
        return self._each({f"{m}, n = {n}{', recomputed' * r}": (self._peak, m, n, r) for m, n, r in kinds})

    def _modes(self) -> list[str]:
        return ["fp32", "bf16"] if self.cpu else list(PRECISIONS)

    def _each(self, work: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
        data = self.data  # made before the runs begin
        assert data.exists()

        def one(call: tuple[Callable[..., Any], Any]) -> Any:
            function, *arguments = call
            try:
                return function(*arguments)
            except Exception as error:  # the others may still tell something
                return {"failed": f"{type(error).__name__}: {error}"}

        with ThreadPoolExecutor(1 if self.cpu else 8) as pool:
            return dict(zip(work, pool.map(one, work.values()), strict=True))

    def _loss(self, mode: str, pair: str) -> float:
        run, _ = self._tiny(mode, pair, f"{mode} {pair}")
        return float(next(line["loss"] for line in reversed(read_metrics(run)) if line["split"] == "train"))

    def _resumed(self, mode: str) -> dict[str, float]:
        whole, _ = self._tiny(mode, "fused", f"{mode} whole")
        again, _ = self._tiny(mode, "fused", f"{mode} again")
        self._tiny(mode, "fused", f"{mode} parts", stop=True)
        parts, _ = self._tiny(mode, "fused", f"{mode} parts")
        return {"resumed": difference(whole, parts), "repeated": difference(whole, again)}

    def _tiny(self, mode: str, pair: str, name: str, *flags: str, stop: bool = False) -> tuple[Path, int]:
        optimizer, criterion = PAIRS[pair]
        words: list[Any] = ["--arch", "linformer_roberta_tiny", "--optimizer", optimizer, "--criterion", criterion]
        words += ["--lr", "1e-3", "--tokens-per-sample", 64, "--batch-size", 16, "--clip-norm", 1]
        words += ["--max-update", 10 if self.cpu else 200, *PRECISIONS[mode], *flags]
        return self._train(self.data, name, words, stop)

    def _peak(self, mode: str, n: int, recomputed: bool) -> dict[str, float]:
        words: list[Any] = [
            "--arch",
            "linformer_roberta_base",
            "--optimizer",
            "fused_adamw",
            "--criterion",
            "fused_masked_lm",
        ]
        words += ["--lr", "1e-5", "--tokens-per-sample", n, "--max-positions", n, "--projected-length", 256]
        words += ["--sample-break-mode", "none", "--batch-size", ROWS[n], "--max-update", 3, *PRECISIONS[mode]]
        words += ["--checkpoint-activations"] if recomputed else []
        data = self.folder / "large"
        run, _ = self._train(data, f"peak {mode} {n} {recomputed}", words)
        for checkpoint in run.glob("*.pt"):
            checkpoint.unlink()  # of 2 GB
        found = next(line["memory_bytes"] for line in reversed(read_metrics(run)) if line["split"] == "train")
        argv = ["fairseq-train", str(data), "--user-dir", str(USER_DIR), "--task", "masked_lm", *map(str, words)]
        plan = plan_of(argv, "h100", gpus=1)
        computed = training_bytes(plan.cfg, plan.rows, mode)
        return {"GB": found / 1e9, "computed": (sum(computed.values()) - computed["other"]) / 1e9}

    def _large_dictionary(self) -> None:
        """The same text with a vocabulary of RoBERTa's size."""
        large = self.folder / "large"
        large.mkdir(exist_ok=True)
        for file in self.data.glob("*.[bi]*"):
            (large / file.name).hardlink_to(file)
        lines = (self.data / "dict.txt").read_text().splitlines()
        more = (f"madeupword{number:06d} 0" for number in range(50260 - len(lines)))
        (large / "dict.txt").write_text("\n".join([*lines, *more]) + "\n")

    def _train(self, data: Path, name: str, more: Iterable[Any], stop: bool = False) -> tuple[Path, int]:
        """Folder of a run, and how many updates overflowed."""
        run = self.folder / name
        words = [program("train"), data, "--user-dir", USER_DIR, "--task", "masked_lm", *more]
        words += ["--lr-scheduler", "fixed", "--seed", 1, "--save-dir", run, "--log-format", "json"]
        words += ["--log-interval", 1, "--no-epoch-checkpoints", "--disable-validation", "--num-workers", 0]
        words += ["--cpu"] if self.cpu else []
        output = []
        with subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ran:
            assert ran.stdout is not None
            for line in ran.stdout:
                output.append(line)
                if stop and '"num_updates": "3"' in line and parse_line(line):
                    ran.send_signal(signal.SIGUSR1)
        if ran.returncode != (REQUEUE if stop else 0):
            raise RuntimeError("".join(output[-5:]))
        return run, sum(bool(re.search("overflow detected", line)) for line in output)


def difference(one: Path, other: Path) -> float:
    """The largest of a parameter between the last checkpoints of two runs."""
    first, second = (torch.load(run / "checkpoint_last.pt", weights_only=False)["model"] for run in (one, other))
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)


def program(name: str) -> str:
    """fairseq's command beside this Python."""
    return str(Path(sys.executable).parent / f"fairseq-{name}")
