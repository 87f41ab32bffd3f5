"""Pretraining, fine-tuning and data preparation as Slurm jobs, through submitit; or the same here, without Slurm.

    python slurm/launch.py pretrain --data DATA --save-dir RUNS --sweep model.projected_length=64,128 common.seed=1,2
    python slurm/launch.py finetune --parts 6 --checkpoint C.pt --glue-dir glue --tasks RTE,MRPC --out tuned
    python slurm/launch.py prepare wikipedia_books --out data-run --copies 16
    python slurm/launch.py status | logs --follow | cancel        of the newest submission, or of the one that is named

A sweep is one array. Jobs that are pre-empted or run into their time limit go on by themselves. What is not known here
goes to the program that is started: flags of fairseq-train, of recipes/finetune_glue.py, or KEY=VALUE of data_prep.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from linformer_fairseq.commands.arguments import command_parser
from linformer_fairseq.errors import UsageError
from linformer_fairseq.launch.checks import Pretraining, check_save_dir, find_data
from linformer_fairseq.launch.submission import (
    LIVE,
    Part,
    Resources,
    Submitted,
    new_folder,
    read_submission,
    sbatch_file,
    submit,
)
from linformer_fairseq.launch.work import Work
from linformer_fairseq.training.recipe import find_recipe


def pretrain(a: argparse.Namespace, more: list[str]) -> list[Part]:
    """One training for each combination of the values of a sweep, each in a folder of its own."""
    recipe, data = find_recipe(a.recipe), find_data(a.data)
    parts = []
    for changes in combinations(a.sweep):
        name = ",".join(f"{key.rsplit('.')[-1]}={value}" for key, value in changes.items()) or recipe.stem
        save_dir = (a.save_dir / name if changes else a.save_dir).resolve()
        argv = [sys.executable, "-u", "-m", "linformer_fairseq.launch.rank"]
        argv += Pretraining(recipe, data, save_dir, tuple(more), changes).argv()
        if not a.dry_run:
            check_save_dir(save_dir, a.free_gb)
        parts.append(Part(name, Work(tuple(argv), saves=True)))
    return parts


def finetune(a: argparse.Namespace, more: list[str]) -> list[Part]:
    """Jobs that share the runs of recipes/finetune_glue.py among them; the last makes the table."""
    argv = (sys.executable, "-u", "-m", "linformer_fairseq", "glue", *more, "--part")
    return [Part(f"part {part}", Work((*argv, f"{part}/{a.parts_of_grid}"))) for part in range(1, a.parts_of_grid + 1)]


def prepare(a: argparse.Namespace, more: list[str]) -> list[Part]:
    """Copies of one command, which share the work among them."""
    argv = [sys.executable, "-m", "data_prep", "run", a.config, *more, "--out", str(a.out), "--workers", str(a.cpus)]
    return [Part(f"copy {number + 1}", Work(tuple(argv))) for number in range(a.copies)]


def combinations(sweep: Sequence[str]) -> list[dict[str, Any]]:
    """Every choice of one value for each `KEY=VALUE,VALUE`, the last key's values next to each other.

    Raises:
        UsageError: it does not have that form.
    """
    keys, values = [], []
    for given in sweep:
        key, equals, text = given.partition("=")
        if not (equals and "." in key and all(text.split(","))):
            raise UsageError(f"--sweep {given}: give it as SECTION.KEY=VALUE,VALUE, for example common.seed=1,2,3")
        keys.append(key)
        values.append([yaml.safe_load(value) for value in text.split(",")])
    return [dict(zip(keys, choice, strict=True)) for choice in product(*values)]


def run_here(parts: Sequence[Part]) -> int:
    """Run one part after the other on this machine; return the exit status of the first that does not succeed."""
    # Ctrl-C reaches the program as well, which saves and ends by itself.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    for part in parts:
        with subprocess.Popen(part.work.argv) as running:
            status = running.wait()
        if status:
            print(f"{part.name}: ended with exit status {status}; the same command goes on from here")
            return status
    return 0


def start(a: argparse.Namespace, more: list[str], here: bool) -> int:
    """Submit what the command asks for, or run or show it; return the exit status."""
    parts = a.parts(a, more)
    if a.local or here and not a.dry_run:
        return run_here(parts)
    resources = Resources(
        *(a.command, a.nodes, max(1, a.gpus) if a.command == "pretrain" else 1, a.gpus, a.cpus, round(a.hours * 60)),
        *(a.parallel, a.partition, a.account),
    )
    folder = new_folder(a.folder, a.command)
    if a.dry_run:
        print(sbatch_file(folder, parts, resources))
        return 0
    for job, part in zip(submit(folder, parts, resources), parts, strict=True):
        print(f"{job}  {part.name}")
    print(f"{folder}: see `python slurm/launch.py status`")
    return 0


def status(jobs: Sequence[Submitted]) -> int:
    """One line a job."""
    for job in jobs:
        print(f"{job.id}  {job.state():10}  {job.name}  {job.progress()}".rstrip())
    return 0


def logs(jobs: Sequence[Submitted], follow: bool) -> int:
    """What the first task of each job has printed; with `follow`, also what it prints until all have ended."""
    read = {job.id: 0 for job in jobs}
    ended = False
    while True:
        for job in jobs:
            if job.log.exists():
                with job.log.open(errors="replace") as file:
                    file.seek(read[job.id])
                    for line in file:
                        print(f"{job.name}: {line}" if len(jobs) > 1 else line, end="", flush=True)
                    read[job.id] = file.tell()
        if ended or not follow:
            return 0
        time.sleep(2)
        ended = all(job.state() not in LIVE for job in jobs)


def cancel(jobs: Sequence[Submitted]) -> int:
    """Stop all jobs of a submission; each saves its run first."""
    return subprocess.run(["scancel", *(job.id for job in jobs)]).returncode


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("launch", __doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def starts(name: str, parts: Any, *, nodes: int, gpus: int, cpus: int) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=parts.__doc__, description=parts.__doc__, allow_abbrev=False)
        command.set_defaults(parts=parts)
        command.add_argument("--nodes", type=int, default=nodes, help="nodes of each job (default: %(default)s)")
        command.add_argument("--gpus", type=int, default=gpus, help="GPUs on each node (default: %(default)s)")
        command.add_argument("--cpus", type=int, default=cpus, help="processors of each task (default: %(default)s)")
        command.add_argument("--hours", type=float, default=24, help="time limit, after which a job goes on")
        command.add_argument("--partition", help="of the cluster (default: the cluster's)")
        command.add_argument("--account", help="that pays (default: the cluster's)")
        command.add_argument("--parallel", type=int, default=256, help="elements of an array that may run at once")
        command.add_argument("--local", action="store_true", help="here, without Slurm (default where there is none)")
        command.add_argument("--dry-run", action="store_true", help="only print the sbatch file")
        return command

    one = starts("pretrain", pretrain, nodes=8, gpus=8, cpus=4)
    one.add_argument("--recipe", default="base_n512_k128", help="file, or name of one (default: %(default)s)")
    one.add_argument("--data", default="data-run/data", help="folder of binarised text (default: %(default)s)")
    one.add_argument(
        "--save-dir", type=Path, required=True, help="folder of the run; a sweep's runs are in folders in it"
    )
    one.add_argument("--sweep", nargs="+", default=[], metavar="KEY=V,V", help="settings of the recipe to vary")
    one.add_argument("--free-gb", type=float, default=10, help="disk that must be free (default: %(default)s)")
    one = starts("finetune", finetune, nodes=1, gpus=1, cpus=4)
    one.add_argument("--parts", dest="parts_of_grid", type=int, default=27, metavar="N", help="jobs (default: 27)")
    one = starts("prepare", prepare, nodes=1, gpus=0, cpus=4)
    one.add_argument("config", help="YAML file, or name of a configuration of data_prep")
    one.add_argument("--out", type=Path, required=True, help="folder that all nodes see")
    one.add_argument("--copies", type=int, default=4, help="jobs that share the work (default: %(default)s)")
    for name, does in (("status", status), ("logs", logs), ("cancel", cancel)):
        one = commands.add_parser(name, help=does.__doc__)
        one.add_argument("submission", nargs="?", type=Path, help="its folder (default: the newest)")
    commands.choices["logs"].add_argument("--follow", action="store_true", help="go on until the jobs have ended")
    for one in commands.choices.values():
        one.add_argument("--folder", type=Path, default=Path("runs/submissions"), help="of submissions (%(default)s)")
    return top


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    logging.disable(logging.INFO)  # what fairseq says while a recipe is read
    a, more = parser().parse_known_args(argv)
    if True:
        if a.command in ("pretrain", "finetune", "prepare"):
            return start(a, [word for word in more if word != "--"], here=shutil.which("sbatch") is None)
        if more:
            raise UsageError(f"unknown: {' '.join(more)}")
        jobs = read_submission(a.folder, a.submission)
        if a.command == "logs":
            return logs(jobs, a.follow)
        return status(jobs) if a.command == "status" else cancel(jobs)
