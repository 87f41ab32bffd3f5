"""The folder `run` beside the checkpoints of a training run: what it was told, where it ran, what it logged.

    run/config.yaml        fairseq's whole configuration, as the last start had it, complete with the model's sizes
    run/environment.json   one entry for each start: command, packages, Python, devices, host, Slurm job, git commit
    run/logs/rank-N.log    the log of each process, with the traceback of one that died (see logs.py)
    run/bad_batch.json     the examples at which a run diverged (see divergence.py)
    metrics.jsonl          what it did (see metrics.py); beside the checkpoints

Nothing is written with `--no-save`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
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

# What decides how a run trains. The environment holds much else, and passwords.
_VARIABLES = re.compile(
    r"(SLURM|CUDA|NCCL|GLOO|TORCH|PYTORCH|TORCHELASTIC|OMP|MKL|OPENBLAS|CUBLAS|NVIDIA|LINFORMER)_\w+"
    r"|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT|PYTHONHASHSEED|LOGLEVEL"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|JWT", re.IGNORECASE)
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
    return len(starts) + 1


def now() -> str:
    """The time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def plain_settings(cfg: Any) -> Any:
    """A configuration of fairseq's, references resolved, as dicts, lists and plain values."""

    def plain(value: Any) -> Any:
        if OmegaConf.is_config(value):
            return OmegaConf.to_container(value, resolve=True, enum_to_str=True)
        return vars(value) if isinstance(value, Namespace) else str(value)

    return json.loads(json.dumps(plain(cfg), default=plain))


def _environment() -> dict[str, Any]:
    report = environment_report()
    return {
        "command": without_secrets(sys.argv),
        "folder": os.getcwd(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "python": report.python,
        "linformer_fairseq": report.version,
        "fairseq": report.fairseq,
        "cpu_cores": report.cpu_cores,
        "cuda": report.cuda,
        "gpus": [asdict(gpu) for gpu in report.gpus],
        "apex": report.apex.state,
        **git_state(USER_DIR),
        "variables": variables(os.environ),
        "packages": dict(sorted((found.name, found.version) for found in distributions() if found.name)),
    }


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that decide how a run trains, without any that looks like a secret."""
    names = sorted(name for name in environ if _VARIABLES.fullmatch(name) and not _SECRET.search(name))
    return {name: environ[name] for name in names}


def without_secrets(argv: Sequence[str]) -> list[str]:
    """The command line, with `…` for the value of a flag that looks like a secret."""
    shown: list[str] = []
    hide_next = False
    for word in argv:
        flag, equals, _ = word.partition("=")
        secret = _SECRET_FLAG.fullmatch(flag) is not None
        shown.append("…" if hide_next else f"{flag}=…" if secret and equals else word)
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
