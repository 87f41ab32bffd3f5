"""Training, fine-tuning and data preparation as Slurm jobs through submitit, or on this machine without Slurm.

    linformer launch pretrain --data DATA --save-dir RUNS --sweep model.projected_length=64,128 common.seed=1,2
    linformer launch finetune --copies 6 --checkpoint C.pt --glue-dir glue --tasks RTE,MRPC --out tuned
    linformer launch prepare wikipedia_books --out data-run --copies 16
    linformer launch status | logs --follow | cancel        of the newest submission, or of the one that is named
    linformer launch script pretrain                        prints the path of an sbatch script

A sweep is one array. Jobs that are preempted or reach their time limit resume. Unknown arguments go to the program
that is started: flags of fairseq-train, flags of `linformer glue`, or KEY=VALUE of data_prep.
"""

import argparse
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from linformer_fairseq.commands import glue
from linformer_fairseq.commands.arguments import command_parser
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import check_folder
from linformer_fairseq.io.processes import child_environment
from linformer_fairseq.launch import submission
from linformer_fairseq.launch.job import check_save_dir, find_data
from linformer_fairseq.launch.submission import LIVE, Submitted, Task
from linformer_fairseq.paths import SLURM
from linformer_fairseq.ranges import real, whole

# Settings that a sweep cannot vary, since the command sets them for all of its runs.
SET_BY = {"task.data": "--data", "checkpoint.save_dir": "--save-dir", "common.user_dir": "this package"}


def pretrain(a: argparse.Namespace, more: list[str]) -> list[Task]:
    """One training run for each combination of a sweep's values, each in a folder of its own."""
    from linformer_fairseq.training.recipe import check_flags, fairseq_train_argv, find_recipe

    recipe, data = find_recipe(a.recipe), find_data(a.data)
    check_folder(a.save_dir)
    tasks: list[Task] = []
    for changes in combinations(a.sweep):
        name = ",".join(f"{key.rsplit('.')[-1]}={value}" for key, value in changes.items()) or recipe.stem
        if ".." in Path(name).parts or name in [task.name for task in tasks]:
            raise UsageError(f"--sweep: {name} cannot be the folder of a run of its own; give other values")
        save_dir = (a.save_dir / name if changes else a.save_dir).resolve()
        argv = fairseq_train_argv(recipe, data, save_dir, changes, more)
        check_flags(argv)
        if not a.dry_run:
            check_save_dir(save_dir, a.free_gb)
        tasks.append(Task(name, (sys.executable, "-u", "-m", "linformer_fairseq.launch.rank", *argv)))
    return tasks


def finetune(a: argparse.Namespace, more: list[str]) -> list[Task]:
    """Copies of one `linformer glue` command, which share its runs; the last to finish writes the table."""
    glue.parser().parse_args(more)
    argv = (sys.executable, "-u", "-m", "linformer_fairseq", "glue", *more)
    return [Task(f"copy {number + 1}", argv) for number in range(a.copies)]


def prepare(a: argparse.Namespace, more: list[str]) -> list[Task]:
    """Copies of one `linformer prepare` command, which share its work."""
    from data_prep.cli import parse
    from data_prep.pipeline import load_config

    words = ["run", a.config, *more, "--out", str(a.out)]
    load_config(a.config, parse(words).changes)
    check_folder(a.out)
    argv = (sys.executable, "-m", "data_prep", *words, "--workers", str(a.cpus))
    return [Task(f"copy {number + 1}", argv) for number in range(a.copies)]


def combinations(sweep: Sequence[str]) -> list[dict[str, Any]]:
    """Every choice of one value for each `KEY=VALUE,VALUE`, or UsageError; the last key varies fastest."""
    choices = []
    for given in sweep:
        key, _, text = given.partition("=")
        values = text.split(",")
        if key in SET_BY:
            raise UsageError(f"--sweep {given}: {SET_BY[key]} sets {key}; submit a launch for each value")
        if "." not in key or not all(values):
            raise UsageError(f"--sweep {given}: give it as SECTION.KEY=VALUE,VALUE, for example common.seed=1,2,3")
        choices.append([(key, yaml.safe_load(value)) for value in values])
    return [dict(choice) for choice in product(*choices)]


def run_here(tasks: Sequence[Task]) -> int:
    """Run one task after the other on this machine; return the exit status of the first that fails."""
    # Ctrl-C reaches the program as well, which saves and exits by itself.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    for task in {task.argv: task for task in tasks}.values():  # one copy does all the work
        if status := subprocess.call(task.argv, env=child_environment()):
            print(f"{task.name}: exit status {status}; the same command resumes from here")
            return status
    return 0


def start(a: argparse.Namespace, tasks: Sequence[Task]) -> int:
    """Submit the tasks, or run or show them; return the exit status."""
    if a.local or not a.dry_run and shutil.which("sbatch") is None:
        return run_here(tasks)
    folder, parameters = submission.new_folder(a.folder, a.command), submission.slurm_parameters(a)
    if a.dry_run:
        print(submission.sbatch_file(folder, tasks, parameters))
        return 0
    for job, task in zip(submission.submit(folder, tasks, parameters), tasks, strict=True):
        print(f"{job}  {task.name}")
    print(f"{folder}: `linformer launch status` shows how it is doing")
    return 0


def status(a: argparse.Namespace, jobs: Sequence[Submitted]) -> int:
    """State and last update of each job."""
    for job in jobs:
        print(f"{job.id}  {job.state():10}  {job.name}  {job.progress()}".rstrip())
    return 0


def logs(a: argparse.Namespace, jobs: Sequence[Submitted]) -> int:
    """Output of the first task of each job."""
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
        if ended or not a.follow:
            return 0
        time.sleep(2)
        ended = all(job.state() not in LIVE for job in jobs)


def cancel(a: argparse.Namespace, jobs: Sequence[Submitted]) -> int:
    """Cancel all jobs of a submission; each saves its run first."""
    return subprocess.call(["scancel", *(job.id for job in jobs)])


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; leave the flag out")
    return text


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("launch", __doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def jobs(tasks_of: Callable[..., Any], nodes: int, gpus: int) -> Callable[..., Any]:
        name, text = tasks_of.__name__, tasks_of.__doc__
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(tasks_of=tasks_of)
        add = command.add_argument
        add("--nodes", type=whole(1, 100_000), default=nodes, help="nodes of each job (default: %(default)s)")
        add("--gpus", type=whole(0, 1024), default=gpus, help="GPUs on each node (default: %(default)s)")
        add("--cpus", type=whole(1, 4096), default=4, help="processors of each task (default: %(default)s)")
        add("--hours", type=real(0.1, 100_000), default=24, help="time limit, after which a job is requeued")
        add("--partition", type=_name, help="partition of the cluster (default: the cluster's)")
        add("--account", type=_name, help="account to charge (default: the cluster's)")
        add("--parallel", type=whole(1, 1_000_000), default=256, help="array elements that may run at the same time")
        add("--local", action="store_true", help="run here, without Slurm (default if there is none)")
        add("--dry-run", action="store_true", help="only print the sbatch file")
        return add

    add = jobs(pretrain, nodes=8, gpus=8)
    add("--recipe", default="base_n512_k128", help="a YAML file, or the name of a recipe (default: %(default)s)")
    add("--data", default="data-run/data", help="folder of binarised text (default: %(default)s)")
    add("--save-dir", type=Path, required=True, help="folder of the run; of a sweep, the folder of its runs")
    add("--sweep", nargs="+", default=[], metavar="KEY=V,V", help="settings of the recipe to vary")
    add("--free-gb", type=real(0, 1e9), default=10, help="disk space that must be free (default: %(default)s)")
    add = jobs(finetune, nodes=1, gpus=1)
    add("--copies", type=whole(1, 100_000), default=27, help="jobs that share the runs (default: %(default)s)")
    add = jobs(prepare, nodes=1, gpus=0)
    add("--copies", type=whole(1, 100_000), default=4, help="jobs that share the work (default: %(default)s)")
    add("config", help="a YAML file, or the name of a configuration of data_prep")
    add("--out", type=Path, required=True, help="folder that all nodes see")
    for of_jobs in (status, logs, cancel):
        one = commands.add_parser(of_jobs.__name__, help=of_jobs.__doc__)
        one.set_defaults(of_jobs=of_jobs)
        one.add_argument("submission", nargs="?", type=Path, help="its folder (default: the newest)")
    commands.choices["logs"].add_argument("--follow", action="store_true", help="keep printing until all jobs ended")
    for one in commands.choices.values():
        one.add_argument("--folder", type=Path, default=Path("runs/submissions"), help="of submissions (%(default)s)")
    script = commands.add_parser("script", help="print the path of an sbatch script")
    script.add_argument("name", choices=["pretrain", "finetune_glue", "prepare_data"])
    return top


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    logging.disable(logging.INFO)  # fairseq logs while a recipe is read
    top = parser()
    a, more = top.parse_known_args(argv)
    if hasattr(a, "tasks_of"):
        return start(a, a.tasks_of(a, [word for word in more if word != "--"]))
    if more:
        top.error(f"unrecognized arguments: {' '.join(more)}")
    if a.command == "script":
        print(SLURM / f"{a.name}.sh")
        return 0
    exit_status: int = a.of_jobs(a, submission.read_submission(a.folder, a.submission))
    return exit_status
