"""`slurm/pretrain.sh`: checks and queues a training job; inside it, trains, and requeues it if it was cut short."""

import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from linformer_fairseq.compat.peers import first_host
from linformer_fairseq.errors import UsageError, exit_status
from linformer_fairseq.io.files import write_json
from linformer_fairseq.training.signals import REQUEUE

# What srun prints when a task exits with a status other than 0: "srun: error: node2: tasks 4-5: Killed".
FAILED_TASK = re.compile(
    r"srun: error: (?P<node>[^:\s]+): tasks? (?P<rank>\d+)[\d,-]*: (?P<how>Exited with exit code (?P<status>\d+)|.+)"
)
_say = partial(print, "pretrain:", flush=True)


def training_run(environ: Mapping[str, str], flags: Sequence[str]) -> tuple[Path, list[str]]:
    """Folder and `fairseq-train` command of the run that RECIPE, DATA and SAVE_DIR describe, or a UsageError."""
    from linformer_fairseq.training.recipe import fairseq_train_argv, find_recipe

    recipe = find_recipe(environ.get("RECIPE", "base_n512_k128"))
    save_dir = Path(environ.get("SAVE_DIR") or f"runs/{recipe.stem}")
    data = find_data(environ.get("DATA", "data-run/data"))
    check_save_dir(save_dir, number(environ, "FREE_GB", 10))
    return save_dir, fairseq_train_argv(recipe, data, save_dir, more=flags)


def find_data(given: str) -> str:
    """DATA as fairseq-train takes it, the shards of a folder joined by colons; UsageError if a file is missing."""
    folders = [Path(one) for one in given.split(os.pathsep)]
    if len(folders) == 1 and (shards := sorted(folders[0].glob("shard*/"))):
        folders = shards
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"DATA (--data) {given}: no folder {folder}; make it with `linformer prepare run`")
        # fairseq takes the dictionary and the validation set from the first folder alone
        of_first = ("dict.txt", "valid.bin", "valid.idx") if folder == folders[0] else ()
        for name in ("train.bin", "train.idx", *of_first):
            if not (folder / name).is_file():
                remedy = "make it with `linformer prepare binarize`"
                raise UsageError(f"DATA (--data) {given}: {folder / name} is missing; {remedy}")
    return os.pathsep.join(map(str, folders))


def check_save_dir(save_dir: Path, free_gb: float) -> None:
    """Make the folder of a run; UsageError if it cannot be written to or has less than `free_gb` GB (1e9 B) free."""
    try:
        (save_dir / "logs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=save_dir):
            pass
    except OSError as error:
        raise UsageError(f"SAVE_DIR (--save-dir) {save_dir} cannot be written to: {error.strerror}") from None
    free = shutil.disk_usage(save_dir).free / 1e9
    if free < free_gb:
        raise UsageError(
            f"SAVE_DIR (--save-dir) {save_dir} has {free:.1f} GB of free disk space, less than {free_gb:g}: free some, "
            "or set FREE_GB (--free-gb) to what the checkpoints of your model take"
        )


def number(environ: Mapping[str, str], name: str, default: float) -> float:
    """An environment variable that is a number, 0 or more; UsageError if it is not."""
    text = environ.get(name) or str(default)
    with suppress(ValueError):
        if (value := float(text)) >= 0:
            return value
    raise UsageError(f"{name}={text} is not a number")


def submit(script: str, flags: Sequence[str], environ: Mapping[str, str]) -> int:
    """Call sbatch and return its exit status; UsageError if the job could not run."""
    if shutil.which("sbatch") is None:
        raise UsageError("there is no sbatch here: without Slurm, use `linformer launch pretrain --local`")
    _, argv = training_run(environ, flags)
    nodes, gpus = (int(number(environ, name, 8)) for name in ("NODES", "GPUS"))
    if device := environ.get("DEVICE"):
        from linformer_fairseq.planning.plan import plan_of

        plan_of(argv, device, nodes * gpus).refuse_too_large()
    size = [f"--nodes={nodes}"] if environ.get("NODES") else []
    size += [f"--ntasks-per-node={gpus}", f"--gres=gpu:{gpus}"] if environ.get("GPUS") else []
    return subprocess.call(["sbatch", *size, script, *flags])


def run(flags: Sequence[str], environ: Mapping[str, str]) -> int:
    """Train in all tasks of this job, requeue it if it was cut short, return its exit status."""
    wanted, given = environ.get("NODES"), environ.get("SLURM_JOB_NUM_NODES", "1")
    if wanted and wanted != given:
        raise UsageError(
            f"NODES={wanted}, but the job has {given} nodes, since sbatch does not read NODES: run the script itself "
            f"with NODES={wanted}, or submit it with `sbatch --nodes={wanted}`"
        )
    retries = int(number(environ, "RETRIES", 3))
    save_dir, argv = training_run(environ, flags)
    logs = save_dir / "logs"
    _say(f"start {environ.get('SLURM_RESTART_COUNT', '0')} on {environ.get('SLURM_JOB_NODELIST', 'this machine')}")
    _say(shlex.join(argv))
    _say(f"output of each process: {logs}/rank-*.log")
    status, failure = _srun(argv, logs, environ)
    if status == 0 and failure is None:
        return 0
    # srun's own status is the highest of all, and processes that are ended along may still save and exit with REQUEUE
    killed = failure is not None and failure["status"] is None
    first = int(failure["status"]) if failure and not killed else status
    if not still_ours(environ):
        _say("the job was cancelled, or Slurm has already requeued it")
        return first or 1
    if first == REQUEUE and not killed:
        _say("the run is saved")
        return requeue(environ)
    if failure:
        log = logs / f"rank-{failure['rank']}.log"
        lines = log.read_text(errors="replace").splitlines()[-40:] if log.exists() else ["(no log)"]
        _say(f"task {failure['rank']} on {failure['node']} failed first: {failure['how']}; the end of {log}:")
        print(*(f"    {line}" for line in lines), sep="\n", flush=True)
    if killed and may_retry(save_dir, retries):
        return requeue(environ)
    return first or 1


def _srun(argv: Sequence[str], logs: Path, environ: Mapping[str, str]) -> tuple[int, re.Match[str] | None]:
    """Start the processes and wait for them: the exit status of srun, and its line on the first process that failed."""
    # Their output goes to files and srun's own stays here. From Slurm 22.05 on, srun must be told --cpus-per-task.
    output = str(logs).replace("%", "%%") + "/rank-%t.log"
    command = ["srun", "--kill-on-bad-exit=1", "--open-mode=append", f"--output={output}"]
    if cpus := environ.get("SLURM_CPUS_PER_TASK"):
        command.append(f"--cpus-per-task={cpus}")
    python, variables = [sys.executable], {}
    if container := shlex.split(environ.get("CONTAINER", "")):
        # There is no scontrol inside, so its processes are told where to meet.
        python = [*container, "python"]
        variables = {"MASTER_ADDR": first_host(int(environ.get("SLURM_JOB_NUM_NODES", "1")), environ)}
    command += [*python, "-u", "-m", "linformer_fairseq.launch.rank", *argv]
    failure = None
    with subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True) as srun:
        # With `--signal=B:USR1@…` Slurm signals only this script. SIGTERM it sends to the tasks itself.
        for warning in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(warning, lambda number, frame: srun.send_signal(number))
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        assert srun.stderr is not None
        for line in srun.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            failure = failure or FAILED_TASK.search(line)
    return srun.returncode, failure


def still_ours(environ: Mapping[str, str]) -> bool:
    """Whether Slurm regards this start of the job as running: neither cancelled nor requeued nor started again."""
    show = ["scontrol", "show", "job", "-o", job_id(environ)]
    words = subprocess.run(show, capture_output=True, text=True).stdout.split()
    return {"JobState=RUNNING", f"Restarts={environ.get('SLURM_RESTART_COUNT') or '0'}"} <= {*words}


def job_id(environ: Mapping[str, str]) -> str:
    """This job, or element of an array, for scontrol: SLURM_JOB_ID of the last element stands for the whole array."""
    if "SLURM_ARRAY_TASK_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ["SLURM_JOB_ID"]


def requeue(environ: Mapping[str, str]) -> int:
    """Requeue this job; return REQUEUE if Slurm refuses, or else wait until Slurm ends this script."""
    _say("requeued")
    if subprocess.call(["scontrol", "requeue", job_id(environ)]) != 0:
        _say("Slurm does not requeue this job: submit it again, and the run resumes")
        return REQUEUE
    time.sleep(60)
    return 0


def may_retry(save_dir: Path, retries: int) -> bool:
    """Count a process killed by a signal: False after more than `retries` in a row without a new checkpoint."""
    record, last = save_dir / "logs/deaths.json", save_dir / "checkpoint_last.pt"
    saved = last.stat().st_mtime_ns if last.exists() else 0
    before = json.loads(record.read_text()) if record.exists() else {}
    count = before["count"] + 1 if before.get("saved") == saved else 1
    write_json(record, {"saved": saved, "count": count})
    if count > retries:
        _say(f"{count} killed processes in a row without a new checkpoint, more than RETRIES={retries}: not requeued")
    return count <= retries


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Queue the job, or run inside it; `argv` holds the sbatch script and flags of fairseq-train."""
    logging.disable(logging.INFO)  # fairseq logs while a recipe is read
    script, *flags = argv
    step = partial(run, flags, environ) if "SLURM_JOB_ID" in environ else partial(submit, script, flags, environ)
    return exit_status("pretrain", step)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
