"""Kill a training with SIGKILL at random moments, many of them inside the write of a checkpoint, and resume it.

    python tests/faults/kills.py --kills 50 --out docs/benchmarks/checkpoints/kills.md

It generates its data and trains a small model with the real `fairseq-train`, once undisturbed and once killed so many
times. Exit status 1 if a start could not resume, a file was damaged, more was repeated than the updates since the last
save, or the parameters and the optimizer's state in the end differ in a bit. A start takes some seconds, so that 50
kills take minutes.
"""

import argparse
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from linformer_fairseq.io.files import digest
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.training.files import damage
from linformer_fairseq.training.files import recorded as recorded_checksum

EVERY = 5  # updates between two saves
UPDATES_PER_KILL = 6
WHERE = ("start-up", "training", "writing")
WEIGHTS = (1, 4, 5)
PROMISES = (
    "starts that could not resume",
    "checkpoints without their checksum's content",
    "checkpoints without a checksum that do not load",
    "starts that repeated more than the updates since the last save",
)


def program(name: str) -> str:
    """A program of fairseq, beside the running Python."""
    return str(Path(sys.executable).with_name(name))


class Training:
    """One start of `fairseq-train`, and what it has logged."""

    def __init__(self, data: Path, save_dir: Path, updates: int) -> None:
        self.save_dir = save_dir
        self.log = save_dir.with_suffix(".log")
        model = "--arch linformer_roberta_tiny --projected-length 16 --tokens-per-sample 64 --dropout 0.1 --cpu"
        data_flags = "--task masked_lm --criterion masked_lm --sample-break-mode complete --batch-size 4"
        optimizer = f"--optimizer adam --lr 1e-3 --lr-scheduler fixed --max-update {updates} --disable-validation"
        saves = f"--save-interval-updates {EVERY} --keep-interval-updates 2 --no-epoch-checkpoints"
        logs = "--log-format json --log-interval 1"
        words = f"{model} {data_flags} {optimizer} {saves} {logs}".split()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [program("fairseq-train"), f"{data}", "--user-dir", f"{USER_DIR}", "--save-dir", f"{save_dir}", *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def updates(self) -> list[int]:
        """Those that were logged."""
        return [int(number) for number in re.findall(r'train_inner.*"num_updates": "(\d+)"', self.text())]

    def saved(self) -> int:
        """Updates in the last save that was said to be finished."""
        return max(map(int, re.findall(r"Saved (\d+) updates", self.text())), default=0)

    def kill(self, where: str, target: int, rng: random.Random) -> bool:
        """Kill it in the given phase, from update `target` on; False if it has ended before."""
        if where == "start-up":
            time.sleep(rng.uniform(0, 6))
        else:
            while self.process.poll() is None and max(self.updates(), default=0) < target:
                time.sleep(0.01)
            while where == "writing" and self.process.poll() is None and not self.is_writing():
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.06 if where == "writing" else 0.3))
        alive = self.process.poll() is None
        if alive:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        return alive

    def is_writing(self) -> bool:
        return any(name.endswith(".partial") for name in os.listdir(self.save_dir))


def make_data(folder: Path) -> Path:
    """Random words that follow each other in some order, binarised."""
    rng = random.Random(1)
    words = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "en", "in", "on", "un")]
    lines = (" ".join(rng.choices(words, k=rng.randint(8, 48))) for _ in range(2000))
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    flags = ["--only-source", "--workers", "1", "--trainpref", f"{folder / 'train.txt'}"]
    command = [program("fairseq-preprocess"), *flags, "--destdir", f"{folder / 'data'}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "data"


def damaged(save_dir: Path) -> list[str]:
    """The promises that the files in a folder break."""
    broken = []
    for path in save_dir.glob("checkpoint*.pt"):
        recorded = recorded_checksum(path)
        if recorded is not None and recorded != digest(path):
            broken.append(PROMISES[1])
        elif recorded is None and damage(path) is not None:
            broken.append(PROMISES[2])
    return broken


def state(save_dir: Path) -> dict[str, Any]:
    from linformer_fairseq.compat.checkpoints import load

    with (save_dir / "checkpoint_last.pt").open("rb") as file:
        content: dict[str, Any] = load(file, map_location="cpu")
    return content


def differences(one: Any, other: Any) -> int:
    """Number of values in which two nested structures differ."""
    if isinstance(one, torch.Tensor):
        return int(not torch.equal(one, other))
    if isinstance(one, dict):
        return int(one.keys() != other.keys()) + sum(differences(one[key], other.get(key)) for key in one)
    return int(one != other)


def run(kills: int, folder: Path, seed: int) -> tuple[Counter[str], list[str]]:
    """Do it all in `folder`; return the tally and the promises that were broken."""
    rng = random.Random(seed)
    total = max(20, kills * UPDATES_PER_KILL)
    data = make_data(folder)
    whole = Training(data, folder / "whole", total)
    if whole.process.wait():
        raise SystemExit(f"error: the undisturbed training failed: {whole.text()[-2000:]}")
    tally: Counter[str] = Counter()
    broken: list[str] = []
    save_dir, target, last, saved = folder / "killed", 0, 0, 0
    done = False
    while not done:
        more = tally["kills"] < kills
        where = rng.choices(WHERE, WEIGHTS)[0] if more else "none"
        target = min(total - 2 * EVERY, target + (0 if where == "start-up" else rng.randint(0, UPDATES_PER_KILL)))
        training = Training(data, save_dir, total)
        if more and training.kill(where, target, rng):
            tally["kills"] += 1
            tally[f"kills during {where}"] += 1
            if where != "none" and save_dir.exists() and training.is_writing():
                tally["kills that left half a file behind"] += 1
            print(f"{tally['kills']} of {kills}: killed during {where}, update {training.updates()[-1:]}", flush=True)
        else:
            done = True
            if training.process.wait():
                broken.append(PROMISES[0])
                print(training.text()[-3000:])
        updates = training.updates()
        if updates:
            tally["starts that trained"] += 1
            repeated = last - updates[0] + 1
            tally["updates repeated"] += max(0, repeated)
            tally["updates repeated by one start, at most"] = max(
                tally["updates repeated by one start, at most"], repeated
            )
            if not saved <= updates[0] - 1 <= last:
                broken.append(PROMISES[3])
        last, saved = (updates[-1] if updates else last), max(saved, training.saved())
        broken += damaged(save_dir) if save_dir.exists() else []
    one, other = state(folder / "whole"), state(save_dir)
    tally["updates of the whole training"] = total
    tally["values that differ in the end"] = sum(
        differences(one[part], other[part]) for part in ("model", "last_optimizer_state")
    )
    if tally["values that differ in the end"]:
        broken.append("the same bits in the end")
    return tally, broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="Markdown file for the tally")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally, broken = run(options.kills, Path(folder), options.seed)
    found = Counter(broken)
    lines = [f"| {name} | {tally[name]} |" for name in sorted(tally)]
    lines += [f"| {name} | {found[name]} |" for name in PROMISES]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ve-fairseq"))
    text = (
        "# Kills -9 of a training\n\n"
        f"`python tests/faults/kills.py --kills {options.kills} --seed {options.seed}`, Python "
        f"{platform.python_version()}, {versions}. A checkpoint is saved every {EVERY} updates. Moments are random, so "
        "another run counts a little differently; the last lines have to be 0.\n\n"
        "| | |\n| --- | ---: |\n" + "\n".join(lines) + "\n"
    )
    print(text)
    if options.out:
        options.out.write_text(text)
    if broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
