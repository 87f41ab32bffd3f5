"""What a saved position in the data depends on: the files, and the settings that decide which batch comes when.

A checkpoint holds all of it. With anything else, the position would mean another batch.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from linformer_fairseq.io.files import fingerprint
from linformer_fairseq.tasks.blocks import TokenFile

logger = logging.getLogger(__name__)

Position = dict[str, dict[str, str]]  # of `files`, by name below DATA, a fingerprint; of `settings`, by flag, the value

_MAPPED = b"MMIDIDX\0\0"  # the first bytes of an index whose tokens are mapped into memory
_SETTINGS = {
    "common": ("seed",),
    "dataset": (
        *("train_subset", "batch_size", "max_tokens", "required_batch_size_multiple"),
        *("update_ordered_indices_seed", "grouped_shuffling"),
    ),
    "task": (
        *("_name", "sample_break_mode", "tokens_per_sample", "max_positions", "no_shuffle"),
        *("shorten_method", "shorten_data_split_list"),
    ),
}


def of(cfg: Any) -> Position:
    """The data and the settings of a run, for its checkpoints."""
    files = {name: fingerprint(path) for name, path in _files(cfg, cfg.dataset.train_subset, r"dict(\..+)?\.txt")}
    settings = {}
    for section, names in _SETTINGS.items():
        for name in names:
            flag = "--task" if name == "_name" else f"--{name.replace('_', '-')}"
            settings[flag] = str(getattr(cfg[section], name, None))
    return {"files": files, "settings": settings}


def changes(before: Mapping[str, Mapping[str, str]], now: Position) -> list[str]:
    """What differs, in words: `dict.txt`, `--seed 2 instead of 1`."""
    old, new = before.get("files", {}), now["files"]
    files = {Path(name).name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    pairs = ((flag, was, now["settings"].get(flag, was)) for flag, was in before.get("settings", {}).items())
    return sorted(files) + [f"{flag} {given} instead of {was}" for flag, was, given in pairs if given != was]


def refuse_damaged(cfg: Any, subsets: str) -> None:
    """Raise a UsageError if files of the splits do not belong together: fairseq would die of a read beyond the end."""
    for _, path in _files(cfg, subsets):
        if path.suffix == ".idx":
            with path.open("rb") as file:
                mapped = file.read(len(_MAPPED)) == _MAPPED
            if mapped or not path.stat().st_size:
                TokenFile(path.with_suffix(""))


def share_among(now: int, extra_state: dict[str, Any] | None) -> None:
    """Set where each of `now` processes resumes in data that another number of them has shared, batch by batch."""
    before = ((extra_state or {}).get("linformer_fairseq") or {}).get("processes")
    if extra_state is None or before in (None, now):
        return
    position = extra_state["train_iterator"]
    done = position["iterations_in_epoch"] * before
    position["iterations_in_epoch"], again = divmod(done, now)
    logger.info(
        f"Resuming with {now} processes instead of {before}: parameters, optimizer, updates and learning rate are "
        f"exactly those saved. An update now has {now}/{before} of the batches (--update-freq can make up for it). "
        f"{done} batches of the epoch are done, {again} of them come again, and dropout differs from here on."
    )


def _files(cfg: Any, subsets: str, others: str = "-") -> Iterator[tuple[str, Path]]:
    """The files of some splits, and those whose names match `others`, in the folders of DATA and one level below."""
    splits = "|".join(map(re.escape, str(subsets).split(",")))
    wanted = re.compile(rf"({splits})\d*(\..+)?\.(bin|idx|label)|{others}")
    for number, folder in enumerate(str(getattr(cfg.task, "data", None) or "").split(os.pathsep)):
        for path in sorted([*Path(folder).glob("*"), *Path(folder).glob("*/*")] if folder else []):
            if wanted.fullmatch(path.name) and path.is_file():
                yield f"{number}/{path.relative_to(folder)}", path
