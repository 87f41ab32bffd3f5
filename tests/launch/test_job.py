"""The job without Slurm: what it refuses, what it queues, which failure it sees first, when it is requeued."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.launch.job import (
    FAILED_TASK,
    check_save_dir,
    find_data,
    job_id,
    main,
    may_retry,
    still_ours,
    training_run,
)
from linformer_fairseq.launch.rank import WARNINGS

ROOT = Path(__file__).resolve().parents[2]
MADE_BY_SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "8"}

# --- what is wrong with a run is said in one sentence, before it is queued


def make_data(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names or ("dict.txt", "train.bin", "train.idx", "valid.bin", "valid.idx"):
        (folder / name).touch()
    return folder


def test_one_folder_or_its_shards(tmp_path: Path) -> None:
    one = make_data(tmp_path / "one")
    assert find_data(str(one)) == str(one)
    two = [make_data(tmp_path / "many/shard0"), make_data(tmp_path / "many/shard1", "train.bin", "train.idx")]
    joined = ":".join(map(str, two))
    assert find_data(str(tmp_path / "many")) == find_data(joined) == joined


@pytest.mark.parametrize("missing", ["dict.txt", "train.idx", "valid.bin"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = make_data(tmp_path / "data")
    (folder / missing).unlink()
    with pytest.raises(UsageError, match=f"{missing} is missing"):
        find_data(str(folder))


def test_missing_data_names_the_script_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder .*nothing; make it with `linformer prepare run`"):
        find_data(str(tmp_path / "nothing"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written to: Not a directory"):
        check_save_dir(tmp_path / "file/run", 0)


def test_too_little_disk(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has [\d.]+ GB of free disk space, less than 1e\+09: .*--free-gb"):
        check_save_dir(tmp_path, 1e9)
    check_save_dir(tmp_path, 0)
    assert {file.name for file in tmp_path.iterdir()} == {"logs"}


@pytest.mark.parametrize("size", ["ten", "-1", "nan"])
def test_a_size_that_is_no_number(tmp_path: Path, size: str) -> None:
    data = make_data(tmp_path / "data")
    environ = {"RECIPE": "tiny_n512_k128", "DATA": str(data), "SAVE_DIR": str(tmp_path / "run"), "FREE_GB": size}
    with pytest.raises(UsageError, match=f"FREE_GB={size} is not a number"):
        training_run(environ, [])


def test_the_command_has_recipe_and_flags(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    environ = {"RECIPE": "tiny_n512_k128", "DATA": str(data), "SAVE_DIR": str(tmp_path / "run"), "FREE_GB": "0"}
    save_dir, argv = training_run(environ, ["--max-update", "9"])
    assert save_dir == tmp_path / "run" and argv[argv.index("--save-dir") + 1] == str(save_dir)
    assert argv[:2] == ["fairseq-train", str(data)] and argv[-2:] == ["--max-update", "9"]
    with pytest.raises(UsageError, match="--user-dir nowhere: "):
        training_run(environ, ["--user-dir", "nowhere"])
    with pytest.raises(UsageError, match="RECIPE=base is neither a file nor one of base_n4096_k256, "):
        training_run({**environ, "RECIPE": "base"}, [])


# --- the script on the login node, and what srun says


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put a shell script in the place of a program; it gets what follows, and the folder of this test as $HERE."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))

    def make(name: str, body: str) -> Path:
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
        return tmp_path

    return make


@pytest.fixture
def environ(tmp_path: Path, tiny_data: Path) -> dict[str, str]:
    return {
        **{"RECIPE": "tiny_n512_k128", "DATA": str(tiny_data), "SAVE_DIR": str(tmp_path / "run"), "FREE_GB": "0"},
        **{"PATH": os.environ["PATH"]},
    }


def test_the_size_of_the_job_goes_to_sbatch(programs: Callable[..., Path], environ: dict[str, str]) -> None:
    here = programs("sbatch", 'echo "$@" > "$HERE/asked"')
    assert main(["slurm/pretrain.sh", "--seed", "3"], {**environ, "NODES": "2", "GPUS": "4"}) == 0
    asked = (here / "asked").read_text()
    assert asked == "--nodes=2 --ntasks-per-node=4 --gres=gpu:4 slurm/pretrain.sh --seed 3\n"
    assert main(["slurm/pretrain.sh"], environ) == 0
    assert (here / "asked").read_text() == "slurm/pretrain.sh\n"


def test_nothing_is_queued_that_cannot_run(
    programs: Callable[..., Path], environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    here = programs("sbatch", 'touch "$HERE/asked"')
    assert main(["slurm/pretrain.sh"], {**environ, "DATA": "nothing"}) == 1
    assert "pretrain: error: DATA (--data) nothing: no folder" in capsys.readouterr().err
    assert not (here / "asked").exists()
    assert main(["slurm/pretrain.sh", "--batch-size", "200000"], {**environ, "DEVICE": "t4"}) == 1
    assert re.search("needs .* GB of each GPU, which has 16 GB .*: use --batch-size", capsys.readouterr().err)
    assert not (here / "asked").exists()
    assert main(["slurm/pretrain.sh"], {**environ, "DEVICE": "t4"}) == 0 and (here / "asked").exists()


def test_without_slurm_the_launcher_is_named(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["slurm/pretrain.sh"], environ) == 1
    assert "no sbatch here: without Slurm, use `linformer launch pretrain --local`" in capsys.readouterr().err


def test_a_job_of_another_size_than_asked_for(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm_script"], {**environ, **MADE_BY_SLURM, "NODES": "2"}) == 1
    assert re.search("NODES=2, but the job has 8 nodes.*`sbatch --nodes=2`", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        ("node2: task 5: Killed\n", ("node2", "5", "Killed", None)),
        ("gpu-07: tasks 4-5,7: Exited with exit code 1\n", ("gpu-07", "4", "Exited with exit code 1", "1")),
        ("10.0.0.1: task 0: Exited with exit code 75", ("10.0.0.1", "0", "Exited with exit code 75", "75")),
        ("n1: task 3: Bus error (core dumped)", ("n1", "3", "Bus error (core dumped)", None)),
    ],
)
def test_what_srun_says_of_a_failure(line: str, failure: tuple[str | None, ...]) -> None:
    found = FAILED_TASK.search(f"srun: error: {line}")
    assert found and found.group("node", "rank", "how", "status") == failure


@pytest.mark.parametrize("line", ["srun: Job step aborted: Waiting up to 7 seconds for job step to finish.\n", "\n"])
def test_what_else_srun_says(line: str) -> None:
    assert FAILED_TASK.search(line) is None


# --- the job, with a srun and a scontrol that do as they are told

RUNNING = "echo JobId=7 JobName=pretrain JobState=RUNNING Restarts=0"
CANCELLED = "echo JobId=7 JobName=pretrain JobState=CANCELLED Restarts=0"
SAVED = 'echo "srun: error: node1: task 0: Exited with exit code 75" >&2; exit 75'
KILLED = 'echo "srun: error: node1: task 1: Killed" >&2; echo "srun: error: node2: tasks 2-3: Killed" >&2; exit 137'
# The processes that are taken down along with it may save and ask for a requeue; srun ends with the highest status.
FAILED = 'echo "srun: error: node1: task 1: Exited with exit code 1" >&2; ' + SAVED


@pytest.fixture
def job(
    programs: Callable[..., Path],
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Be a job; its exit status, what it prints, and what was asked of scontrol but to show the job."""
    monkeypatch.setattr("linformer_fairseq.launch.job.time.sleep", lambda seconds: None)
    handlers = {number: signal.getsignal(number) for number in WARNINGS}

    def run(srun: str, state: str = RUNNING) -> tuple[int, str, str]:
        here = programs("srun", f'echo "$@" > "$HERE/srun"; {srun}')
        programs("scontrol", f'if [ $1 = show ]; then {state}; else echo "$@" > "$HERE/asked"; fi')
        (here / "run/logs").mkdir(parents=True, exist_ok=True)
        (here / "run/logs/rank-1.log").write_text("".join(f"line {number}\n" for number in range(100)))
        (here / "asked").write_text("")
        status = main(
            ["slurm/pretrain.sh", "--seed", "3"], {**environ, "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
        )
        return status, capfd.readouterr().out, (here / "asked").read_text()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_finished_training_ends_the_job(job: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert job("exit 0")[::2] == (0, "")
    words = (tmp_path / "srun").read_text().split()
    assert {"--kill-on-bad-exit=1", "--cpus-per-task=4", f"--output={tmp_path}/run/logs/rank-%t.log"} <= set(words)
    assert words[-2:] == ["--seed", "3"] and "fairseq-train" in words


@pytest.mark.parametrize(("nodes", "address"), [("1", "localhost"), ("2", "gpu-07")])
def test_processes_in_a_container_are_told_where_to_meet(
    job: Callable[..., tuple[int, str, str]], environ: dict[str, str], tmp_path: Path, nodes: str, address: str
) -> None:
    environ |= {"CONTAINER": "apptainer exec 'an image.sif'", "SLURM_JOB_NUM_NODES": nodes, "SLURM_JOB_NODELIST": "gpu"}
    assert job('echo "$MASTER_ADDR" > "$HERE/address"', "echo gpu-07; echo gpu-08")[0] == 0
    assert (tmp_path / "address").read_text() == f"{address}\n"
    words = (tmp_path / "srun").read_text().split()
    start = words.index("apptainer")
    assert words[start : start + 6] == ["apptainer", "exec", "an", "image.sif", "python", "-u"]
    assert all(word.startswith("--") for word in words[:start])


def test_a_saved_training_goes_back_into_the_queue(job: Callable[..., tuple[int, str, str]]) -> None:
    assert job(SAVED)[::2] == (0, "requeue 7\n")


def test_a_cancelled_job_does_not(job: Callable[..., tuple[int, str, str]]) -> None:
    assert job(SAVED, CANCELLED)[::2] == (75, "")


def test_nor_does_an_older_start_of_it(job: Callable[..., tuple[int, str, str]]) -> None:
    """One whose node was lost, and that still runs while Slurm has started the job elsewhere."""
    assert job(KILLED, RUNNING.replace("Restarts=0", "Restarts=1"))[::2] == (137, "")


def test_the_log_of_the_first_dead_process_is_shown(job: Callable[..., tuple[int, str, str]]) -> None:
    status, output, asked = job(FAILED)
    assert (status, asked) == (1, "")
    shown = output.splitlines()[-41:]
    assert "task 1 on node1 failed first: Exited with exit code 1" in shown[0]
    assert shown[1].strip() == "line 60" and shown[-1].strip() == "line 99"


def test_killed_processes_are_forgiven_until_there_are_too_many(
    job: Callable[..., tuple[int, str, str]], environ: dict[str, str]
) -> None:
    environ["RETRIES"] = "1"
    assert job(KILLED)[::2] == (0, "requeue 7\n")
    status, output, asked = job(KILLED)
    assert (status, asked) == (
        137,
        "",
    ) and "2 killed processes in a row without a new checkpoint, more than RETRIES=1" in output


def test_a_new_checkpoint_makes_deaths_forgotten(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    last = tmp_path / "checkpoint_last.pt"
    assert may_retry(tmp_path, 1) and not may_retry(tmp_path, 1)
    for second in range(1, 4):
        last.touch()
        os.utime(last, (second, second))
        assert may_retry(tmp_path, 1)
    assert not may_retry(tmp_path, 1)


def test_no_requeue_where_slurm_refuses_it(job: Callable[..., tuple[int, str, str]]) -> None:
    status, output, _ = job(SAVED, f"{RUNNING}; exit 0; fi; if true; then exit 1")
    assert status == 75 and "submit it again" in output


def test_elements_of_an_array_are_told_apart(programs: Callable[..., Path]) -> None:
    """The number of the last element is the number of the whole array."""
    programs("scontrol", f'[ "$*" = "show job -o 7_1" ] && {RUNNING} || {CANCELLED}')
    element = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    assert still_ours(element) and not still_ours({**element, "SLURM_ARRAY_TASK_ID": "0"})
    assert job_id(element) == "7_1" and job_id({"SLURM_JOB_ID": "6"}) == "6"


@pytest.mark.parametrize(
    "script",
    [".ci/run", *(f"slurm/{name}" for name in ("pretrain.sh", "prepare_data.sh", "finetune_glue.sh"))],
)
def test_scripts_are_clean(script: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "-x", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_scripts_lines_for_sbatch() -> None:
    lines = [line for line in (ROOT / "slurm/pretrain.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    wanted = [
        "--nodes=8",
        "--ntasks-per-node=8",
        "--gres=gpu:8",
        "--signal=USR1@120",
        "--requeue",
        "--open-mode=append",
    ]
    assert {f"#SBATCH {flag}" for flag in wanted} <= set(lines)


@pytest.mark.parametrize("name", ["pretrain", "prepare_data", "finetune_glue"])
@pytest.mark.parametrize("place", ["clone", "elsewhere"])
def test_where_the_script_runs(tmp_path: Path, place: str, name: str) -> None:
    """In a clone it changes to the clone's folder; the wheel's script stays where it is called.

    The site's script may read variables that are not set.
    """
    script = tmp_path / f"package/slurm/{name}.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / f"slurm/{name}.sh", script)
    folder = tmp_path / "here"
    if place == "clone":
        folder = tmp_path / "package"
        (folder / "setup.py").touch()
    (tmp_path / "python").write_text('#!/bin/sh\npwd; echo "$MODULE"; printf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (folder / "slurm").mkdir(parents=True, exist_ok=True)
    (folder / "slurm/site.sh").write_text('[ -z "$UNSET_BY_MODULES" ] && export MODULE=cuda\n')
    (tmp_path / "here").mkdir(exist_ok=True)
    environ = {"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "python"), "CHECKPOINT": "c.pt"}
    done = subprocess.run(
        ["bash", f"../package/slurm/{name}.sh", "--seed", "3"],
        cwd=tmp_path / "here",
        env=environ,
        capture_output=True,
        text=True,
    )
    where, module, *argv = done.stdout.splitlines()
    assert (where, module) == (str(folder), "cuda") and "--seed" in argv, done.stderr
    if name == "pretrain":
        assert argv == ["-u", "-m", "linformer_fairseq.launch.job", str(script), "--seed", "3"]
