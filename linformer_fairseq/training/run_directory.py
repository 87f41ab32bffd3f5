"""The folder `run` beside the checkpoints of a training: what it was told, where it ran, what its processes said.

    run/config.yaml        fairseq's whole configuration, as the last start had it, complete with the model's sizes
    run/environment.json   one entry for each start: command, packages, Python, devices, host, Slurm job, git commit
    run/logs/rank-N.log    the log of each process, with the traceback of one that died (see run_directory_logs.py)
    run/bad_batch.json     the examples at which a training diverged (see divergence.py)
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
from dataclasses import asdict
from datetime import UTC, datetime
from enum import Enum
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from linformer_fairseq.environment import environment_report
from linformer_fairseq.errors import UsageError
from linformer_fairseq.paths import USER_DIR

# What decides how a training runs. The environment holds much else, and passwords.
_VARIABLES = re.compile(
    r"(SLURM|CUDA|NCCL|GLOO|TORCH|PYTORCH|TORCHELASTIC|OMP|MKL|OPENBLAS|CUBLAS|NVIDIA|LINFORMER)_\w+"
    r"|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT|PYTHONHASHSEED|LOGLEVEL"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|JWT", re.IGNORECASE)


def run_folder(cfg: DictConfig) -> Path | None:
    """The folder `run` of a training, made if need be; None with `--no-save`, or where it is not on a file system.

    Raises:
        UsageError: it cannot be made.
    """
    if cfg.checkpoint.no_save or "://" in cfg.checkpoint.save_dir:
        return None
    folder = Path(cfg.checkpoint.save_dir) / "run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--save-dir {cfg.checkpoint.save_dir} cannot be written to ({error.strerror}): give another folder"
        ) from None
    return folder


def record_start(folder: Path, cfg: DictConfig, updates: int) -> int:
    """Write down this start of a training: its configuration and its environment.

    Args:
        folder: that `run_folder` has made.
        cfg: the configuration, with the model's settings complete.
        updates: that the checkpoint had which this start goes on from, 0 without one.

    Returns:
        The number of this start, from 1 on.
    """
    settings = plain_settings(cfg)
    starts = read_starts(folder)
    entry = {"start": len(starts) + 1, "time": now(), "updates_before": updates, **_environment()}
    if starts:
        entry["settings_changed"] = _changes(_read_yaml(folder / "config.yaml"), settings)
    write_atomically(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    write_json(folder / "environment.json", [*starts, entry])
    return len(starts) + 1


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """The entries of `environment.json`, oldest first; none where it is missing or damaged."""
    try:
        starts = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return starts if isinstance(starts, list) else []


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def plain_settings(value: Any) -> Any:
    """A configuration of fairseq's, references resolved, as dicts, lists and plain values."""
    if isinstance(value, DictConfig | ListConfig):
        value = OmegaConf.to_container(value, resolve=True, enum_to_str=True)
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): plain_settings(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_settings(item) for item in value]
    if isinstance(value, Enum):
        return str(value.value)
    return value if value is None or type(value) in (bool, int, float, str) else str(value)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON in one step; of what is not JSON, its text."""
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


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
    """The environment variables that decide how a training runs, none of which looks like a secret."""
    return {
        name: value
        for name, value in sorted(environ.items())
        if _VARIABLES.fullmatch(name) and not _SECRET.search(name)
    }


def without_secrets(argv: Sequence[str]) -> list[str]:
    """The command line, with `…` for the value of a flag that looks like a secret."""
    shown: list[str] = []
    hide_next = False
    for word in argv:
        flag, equals, _ = word.partition("=")
        secret = re.fullmatch(r"[+~]*[\w.-]+", flag) is not None and _is_secret(flag)
        shown.append("…" if hide_next else f"{flag}=…" if secret and equals else word)
        hide_next = secret and not equals and word.startswith("--")
    return shown


def _is_secret(flag: str) -> bool:
    return any(re.fullmatch(r"key|token|secret|password|credentials?", part) for part in re.split(r"[-_.]+", flag))


def git_state(folder: Path) -> dict[str, dict[str, Any]]:
    """`{"git": {"commit": …, "dirty": …}}` of the repository that `folder` belongs to; nothing outside git.

    `dirty` says that a tracked file has been changed since that commit. A folder that git ignores, as a virtual
    environment inside a repository, does not belong to it.
    """
    if not _git(folder, "ls-files", "."):
        return {}
    commit = _git(folder, "rev-parse", "HEAD")
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


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _changes(old: Any, new: Any, name: str = "") -> dict[str, list[Any]]:
    """`{"section.setting": [old value, new value]}` of all settings that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        found = [_changes(old.get(key), new.get(key), f"{name}.{key}".strip(".")) for key in keys]
        return {key: values for changes in found for key, values in changes.items()}
    return {} if old == new else {name: [old, new]}
