"""All stages of a configuration, one folder each, and what there is to say about the result.

    OUT/corpus  clean  dedup  decontaminate  split  tokenizer  data     manifest.json  report.md  lengths.png

Stages that a configuration leaves out have no folder. Any number of these runs, on one machine or many, may share
one OUT: each stage is work for all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.binarize import binarize, data_argument
from data_prep.config import PipelineConfig, load_config
from data_prep.dedup import dedup
from data_prep.extract import extract
from data_prep.filters import clean, decontaminate
from data_prep.report import write_report
from data_prep.split import split
from data_prep.tokenizer import make_tokenizer
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import sweep

FOLDERS = {
    "extract": "corpus",
    "clean": "clean",
    "dedup": "dedup",
    "decontaminate": "decontaminate",
    "split": "split",
    "tokenizer": "tokenizer",
    "binarize": "data",
}

Record = dict[str, Any]


def run(config: str, changes: Sequence[str], out: Path, workers: int = 1, redo: str | None = None) -> None:
    """Runs all stages.

    Args:
        config: path of a YAML file, or the name of a configuration that comes along.
        changes: ``KEY=VALUE`` to replace in it.
        out: folder of the run.
        workers: processes.
        redo: stage whose folder is deleted first, with those of all behind it.
    """
    settings = load_config(config, changes)
    if redo is not None:
        _delete_from(redo, out)
    records = {stage: record for stage, record in _stages(settings, out, workers)}
    write_report(asdict(settings), records, out)
    sweep(out)
    data = out / FOLDERS["binarize"]
    print(f"""
{out / "report.md"}
    what each stage did; the same for programs, with hashes, in manifest.json
python -m data_prep inspect {data}
    random blocks of the data, decoded
fairseq-train {data_argument(data, settings.binarize.shards)} --user-dir linformer_fairseq …
    see recipes/pretrain""")


def _stages(settings: PipelineConfig, out: Path, workers: int) -> list[tuple[str, Record]]:
    """Runs each stage; its name and record."""
    records: list[tuple[str, Record]] = []
    corpus = out / FOLDERS["extract"]
    names = [source.name or source.source for source in settings.sources]
    if len(set(names)) < len(names):
        raise UsageError(f"sources: two are named {max(names, key=names.count)}; give one another `name`")
    for source, name in zip(settings.sources, names, strict=True):
        record = extract(
            source.source,
            source.inputs,
            corpus,
            name=name,
            text_column=source.text_column,
            on_error=settings.on_error,
            file_characters=settings.file_characters,
            workers=workers,
        )
        records.append((f"extract {name}", record))
    filters: list[tuple[str, Any, Callable[..., Record]]] = [
        ("clean", settings.clean, clean),
        ("dedup", settings.dedup, dedup),
        ("decontaminate", settings.decontaminate, decontaminate),
        ("split", settings.split, split),
    ]
    for stage, config, function in filters:
        if config is not None:
            records.append((stage, function(corpus, out / FOLDERS[stage], config, workers)))
            corpus = out / FOLDERS[stage]
    tokenizer = out / FOLDERS["tokenizer"]
    records.append(("tokenizer", make_tokenizer(corpus / "train", tokenizer, settings.tokenizer)))
    data = out / FOLDERS["binarize"]
    records.append(("binarize", binarize(corpus, tokenizer, data, settings.binarize, workers)))
    return records


def _delete_from(stage: str, out: Path) -> None:
    if stage not in FOLDERS:
        raise UsageError(f"--redo {stage}: no such stage; choose one of {', '.join(FOLDERS)}")
    for name in list(FOLDERS)[list(FOLDERS).index(stage) :]:
        shutil.rmtree(out / FOLDERS[name], ignore_errors=True)
