"""What a job trains, and whether it could start here: checked before it is queued, and again when it starts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from linformer_fairseq.errors import UsageError

SPLITS = ("train.bin", "train.idx", "valid.bin", "valid.idx")


def training_run(environ: Mapping[str, str], flags: Sequence[str]) -> tuple[Path, list[str]]:
    """Folder and `fairseq-train` command of the run that RECIPE, DATA and SAVE_DIR describe, or a UsageError."""
    from linformer_fairseq.training.recipe import fairseq_train_argv, find_recipe

    recipe = find_recipe(environ.get("RECIPE", "base_n512_k128"))
    save_dir = Path(environ.get("SAVE_DIR") or f"runs/{recipe.stem}")
    data = find_data(environ.get("DATA", "data-run/data"))
    check_save_dir(save_dir, number(environ, "FREE_GB", 10))
    return save_dir, fairseq_train_argv(recipe, data, save_dir) + list(flags)


def find_data(given: str) -> str:
    """DATA as fairseq-train takes it, the shards of a folder joined by colons; UsageError if a file is missing."""
    folders = [Path(one) for one in given.split(os.pathsep)]
    if len(folders) == 1 and (shards := sorted(folders[0].glob("shard*/"))):
        folders = shards
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"DATA (--data) {given}: no folder {folder}; make it with `linformer prepare run`")
    # fairseq takes the dictionary and the validation set from the first folder alone
    needed = [folders[0] / name for name in ("dict.txt", *SPLITS)]
    needed += [folder / name for folder in folders[1:] for name in SPLITS[:2]]
    for file in needed:
        if not file.is_file():
            raise UsageError(f"DATA (--data) {given}: {file} is missing; make it with `linformer prepare binarize`")
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
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise UsageError(f"{name}={text} is not a number")
    return value
