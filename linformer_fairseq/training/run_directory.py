"""The folder `run` beside the checkpoints of a training run: what it was told, where it ran, what its processes logged.

docs/howto/watch.md lists its files. Nothing is written with `--no-save`.
"""

import faulthandler
import json
import logging
import os
import platform
import re
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TextIO, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from linformer_fairseq.environment import environment_report
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import write_json, write_text
from linformer_fairseq.paths import USER_DIR

logger = logging.getLogger(__name__)

# What decides how a run trains. The environment holds much else, and passwords under any name.
_VARIABLES = {
    "SLURM": "JOB_ID JOB_NODELIST JOB_NUM_NODES JOB_PARTITION NNODES NTASKS NTASKS_PER_NODE CPUS_PER_TASK GPUS_ON_NODE "
    "PROCID LOCALID NODEID STEP_ID STEP_NODELIST STEP_NUM_NODES STEP_NUM_TASKS RESTART_COUNT ARRAY_JOB_ID "
    "ARRAY_TASK_ID CLUSTER_NAME",
    "CUDA": "VISIBLE_DEVICES DEVICE_ORDER DEVICE_MAX_CONNECTIONS LAUNCH_BLOCKING MODULE_LOADING",
    "NCCL": "DEBUG SOCKET_IFNAME IB_HCA IB_DISABLE IB_TIMEOUT IB_GID_INDEX NET NET_GDR_LEVEL P2P_DISABLE P2P_LEVEL "
    "SHM_DISABLE ALGO PROTO NVLS_ENABLE",
    "GLOO": "SOCKET_IFNAME",
    "TORCH": "DISTRIBUTED_DEBUG NCCL_BLOCKING_WAIT NCCL_ASYNC_ERROR_HANDLING NCCL_AVOID_RECORD_STREAMS CUDA_ARCH_LIST "
    "ALLOW_TF32_CUBLAS_OVERRIDE COMPILE_DISABLE",
    "PYTORCH": "CUDA_ALLOC_CONF ALLOC_CONF NO_CUDA_MEMORY_CACHING",
    "TORCHELASTIC": "RUN_ID RESTART_COUNT MAX_RESTARTS",
    "OMP": "NUM_THREADS PROC_BIND PLACES",
    "MKL": "NUM_THREADS CBWR ENABLE_INSTRUCTIONS",
    "OPENBLAS": "NUM_THREADS CORETYPE",
    "CUBLAS": "WORKSPACE_CONFIG",
    "NVIDIA": "VISIBLE_DEVICES TF32_OVERRIDE",
    "LINFORMER": "DEBUG MAX_PERPLEXITY_RATIO",
    "": "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT PYTHONHASHSEED LOGLEVEL",
}
# Sections of fairseq's settings that decide a run's result.
_DECIDING = {"model", "task", "criterion", "optimizer", "lr_scheduler", "optimization", "dataset"}
_NAMES = {f"{start}_{name}".strip("_") for start, names in _VARIABLES.items() for name in names.split()}
_IN_URL = re.compile(r"://[^/\s\"']*@")  # user and password
_log: logging.FileHandler | None = None  # the log file of this process
_SECRET_FLAG = re.compile(r"[+~-]*([\w.-]*[-_.])?(key|token|secret|password|credentials?)([-_.][\w.-]*)?")


def run_folder(cfg: DictConfig) -> Path | None:
    """The folder `run`, created if need be, or a UsageError; None with `--no-save`, or if it is not a local path."""
    if cfg.checkpoint.no_save or "://" in cfg.checkpoint.save_dir:
        return None
    folder = Path(cfg.checkpoint.save_dir) / "run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--save-dir {cfg.checkpoint.save_dir} cannot be written to ({error.strerror}): choose another folder"
        ) from None
    return folder


def record_start(folder: Path, cfg: DictConfig, updates: int) -> int:
    """Write down this start of a run, from a checkpoint of `updates`; returns its number, from 1 on."""
    settings = plain_settings(cfg)
    starts, before = [], {}
    with suppress(OSError, ValueError, yaml.YAMLError):  # a first start, or damaged files
        starts = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        before = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    entry = {"start": len(starts) + 1, "time": now(), "updates_before": updates, **_environment()}
    if starts:
        entry["settings_changed"] = changed = _changes(before, settings)
        words = [f"{n} {new} instead of {old}" for n, (old, new) in changed.items() if n.split(".")[0] in _DECIDING]
        if words and updates:  # another k of adaptive blocks, say, fits the parameters as well
            logger.warning(f"this run goes on with other settings than before: {', '.join(words)}")
    write_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    write_json(folder / "environment.json", [*starts, entry])
    logger.info(f"start {entry['start']} of this run, after {updates} updates")  # `reporting.runs` looks for it
    return len(starts) + 1


def now() -> str:
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def plain_settings(cfg: Any) -> Any:
    """A configuration of fairseq's, references resolved, as plain values without passwords in URLs."""

    def plain(value: Any) -> Any:
        if OmegaConf.is_config(value):
            return OmegaConf.to_container(value, resolve=True, enum_to_str=True)
        return vars(value) if isinstance(value, Namespace) else str(value)

    return json.loads(_IN_URL.sub("://…@", json.dumps(plain(cfg), default=plain)))


def _environment() -> dict[str, Any]:
    report = environment_report()
    installed = (found.metadata for found in distributions())  # read once; `found.name` would read it anew
    return {
        "command": without_secrets(sys.argv),
        "folder": os.getcwd(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "python": report["python"],
        "linformer_fairseq": report["version"],
        **{name: report[name] for name in ("fairseq", "cpu_cores", "cuda", "gpus")},
        "apex": report["apex"]["state"],
        **git_state(USER_DIR),
        "variables": variables(os.environ),
        "packages": dict(sorted((one["Name"], one["Version"]) for one in installed if one["Name"])),
    }


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that decide how a run trains, and no others."""
    return {name: _IN_URL.sub("://…@", environ[name]) for name in sorted(_NAMES & environ.keys())}


def without_secrets(argv: Sequence[str]) -> list[str]:
    """The command line, with `…` for the value of a flag that looks like a secret and for passwords in URLs."""
    shown: list[str] = []
    hide_next = False
    for word in argv:
        flag, equals, _ = word.partition("=")
        secret = _SECRET_FLAG.fullmatch(flag) is not None
        shown.append("…" if hide_next else f"{flag}=…" if secret and equals else _IN_URL.sub("://…@", word))
        hide_next = secret and not equals and word.startswith("--")
    return shown


def git_state(folder: Path) -> dict[str, dict[str, Any]]:
    """`{"git": {"commit": …, "dirty": …}}` of the repository that tracks `folder`; {} without one."""
    commit = _git(folder, "ls-files", ".") and _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    return {"git": {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}}


def _git(folder: Path, *arguments: str) -> str:
    """What a git command prints; nothing where it fails, or there is no git."""
    try:
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _changes(old: Any, new: Any, name: str = "") -> dict[str, list[Any]]:
    """`{"section.setting": [old value, new value]}` of all settings that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        found = [_changes(old.get(key), new.get(key), f"{name}.{key}".strip(".")) for key in keys]
        return {key: values for changes in found for key, values in changes.items()}
    return {} if old == new else {name: [old, new]}


class _LogFile(logging.FileHandler):
    """On a full disk it says nothing, where `logging` would print a traceback for each line of the log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


@contextmanager
def logged(cfg: DictConfig) -> Iterator[None]:
    """Keep the log of this process in a file, with the reason for its end if it fails."""
    global _log
    keep_log(cfg)
    try:
        yield
    except Exception:
        _only_to_file(logging.ERROR, "this process ends with an error", exc_info=sys.exc_info())
        raise
    except (SystemExit, KeyboardInterrupt) as end:
        _only_to_file(logging.INFO, f"this process ends: {end!r}")
        raise
    if _log is not None:  # the next run of this process has a log of its own
        faulthandler.disable()
        logging.getLogger().removeHandler(_log)
        _log.close()
        _log = None


def keep_log(cfg: DictConfig) -> None:
    """Append the log of this process to `run/logs/rank-N.log`, from level INFO on, and its stacks if it crashes.

    What is printed stays as fairseq has it: of ranks other than 0, from warnings on.
    """
    global _log
    folder, root = run_folder(cfg), logging.getLogger()
    if folder is None or _log in root.handlers:
        return
    rank = cfg.distributed_training.distributed_rank
    (folder / "logs").mkdir(exist_ok=True)
    _log = _LogFile(folder / "logs" / f"rank-{rank}.log", encoding="utf-8")
    _log.setFormatter(logging.Formatter("%(asctime)s | %(levelname)s | %(name)s | %(message)s"))  # fairseq's
    for other in root.handlers:
        other.setLevel(max(other.level, root.level))
    root.setLevel(min(root.level, logging.INFO))
    root.addHandler(_log)
    faulthandler.enable(cast(TextIO, _log.stream))
    _only_to_file(logging.INFO, f"rank {rank} of {cfg.distributed_training.distributed_world_size} starts")


def _only_to_file(level: int, message: str, exc_info: Any = None) -> None:
    """Log to this process's file, and not to the terminal, where it would repeat what is there anyway."""
    if _log is not None:
        _log.handle(logger.makeRecord(logger.name, level, __file__, 0, message, (), exc_info))
