"""The folder `run` beside the checkpoints of a training run: what it was told, where it ran, what it logged.

docs/howto/watch.md lists its files. Nothing is written with `--no-save`.
"""

import json
import logging
import os
import platform
import re
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

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
_NAMES = {f"{start}_{name}".strip("_") for start, names in _VARIABLES.items() for name in names.split()}
_IN_URL = re.compile(r"://[^/\s\"']*@")  # user and password
_SECRET_FLAG = re.compile(r"[+~-]*([\w.-]*[-_.])?(key|token|secret|password|credentials?)([-_.][\w.-]*)?")


def run_folder(cfg: DictConfig) -> Path | None:
    """The folder `run` of a training run, created if need be; None with `--no-save`, or if it is not a local path.

    Raises:
        UsageError: it cannot be created.
    """
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
        entry["settings_changed"] = _changes(before, settings)
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
        "packages": dict(sorted((found.name, found.version) for found in distributions() if found.name)),
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
