"""The command `run`: all stages of a configuration, a folder each, and a report.

    OUT/corpus  clean  dedup  decontaminate  split  tokenizer  data     manifest.json  report.md  lengths.png

Any number of runs, on one machine or many, may share one OUT: they share the work of each stage. The manifest, for
programs, has no times: it is the same for equal input, settings and versions.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from data_prep.binarize import binarize, data_folders
from data_prep.clean import clean
from data_prep.config import ReadingConfig
from data_prep.decontaminate import benchmark_folders, decontaminate
from data_prep.dedup import dedup
from data_prep.extract import extract
from data_prep.funnel import FOLDERS, STAGES, left_out, totals
from data_prep.pipeline import PipelineConfig, load_config
from data_prep.sources.files import refuse_out_below
from data_prep.split import split
from data_prep.tokenizer import existing_files, make_tokenizer
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done, sweep, write_text
from linformer_fairseq.io.records import StaleOutput

# The bytes of the output depend on the versions of these.
PACKAGES = ("linformer-fairseq", "ftfy", "datasketch", "numpy", "pyarrow", "sentencepiece", "tokenizers", "pillow")

Record = Mapping[str, Any]


def run(config: str, changes: Sequence[str], out: Path, workers: int = 1, redo: str | None = None) -> None:
    """Run all stages of a configuration (see `load_config`).

    With `redo`, first delete the folders of that stage and of all later ones.
    """
    settings: PipelineConfig = load_config(config, changes)
    # Hours may pass before the stages that read these.
    if not settings.sources:
        raise UsageError(f"{config}: has no sources; name one, such as sources.0.source=text")
    for source in settings.sources:
        if source.source != "docstrings":  # all others read a kind of file that a stage or the report writes
            refuse_out_below(source.inputs, out)
    if settings.decontaminate is not None:
        benchmark_folders(settings.decontaminate)
    if settings.tokenizer.existing is not None:
        existing_files(Path(settings.tokenizer.existing))
    if redo is not None:
        if redo not in STAGES:
            raise UsageError(f"--redo {redo}: no such stage; choose one of {', '.join(STAGES)}")
        for stage in STAGES[STAGES.index(redo) :]:
            shutil.rmtree(out / FOLDERS[stage], ignore_errors=True)
    records = _run_stages(settings, {stage: out / folder for stage, folder in FOLDERS.items()}, workers)
    _write_report(asdict(settings), records, out)
    sweep(out)
    data = out / FOLDERS["binarize"]
    print(f"""
{_table(records)}

{out / "report.md"}
    what each stage did; for programs, with hashes, in manifest.json
python -m data_prep inspect {data}
    random blocks of the data, decoded
linformer train RECIPE {":".join(map(str, data_folders(data, settings.binarize.shards)))} --save-dir RUN
    RECIPE is a YAML file, or a name that `linformer train --list` prints""")


def _run_stages(settings: PipelineConfig, folders: Mapping[str, Path], workers: int) -> dict[str, Record]:
    """Run each stage; returns their records by name."""
    records: dict[str, Record] = {}

    def stage(name: str, function: Callable[..., Record], *arguments: Any) -> None:
        try:
            records[name] = function(*arguments, workers)
        except StaleOutput as error:
            flag = f"--redo {name.split()[0]}"
            raise UsageError(f"{error}; or add {flag}, which makes it and all later stages again") from error

    reading = ReadingConfig(settings.on_error, settings.file_characters)
    names = [source.name or source.source for source in settings.sources]
    if len(set(names)) < len(names):
        raise UsageError(f"sources: two are named {max(names, key=names.count)}; give one another `name`")
    corpus = folders["extract"]
    for source, name in zip(settings.sources, names, strict=True):
        stage(f"extract {name}", extract, source, corpus, reading)
    functions: tuple[Callable[..., Record], ...] = (clean, dedup, decontaminate, split)
    for name, function in zip(STAGES[1:5], functions, strict=True):
        if (config := getattr(settings, name)) is not None:
            stage(name, function, corpus, folders[name], config)
            corpus = folders[name]
    stage("tokenizer", make_tokenizer, corpus / "train", folders["tokenizer"], settings.tokenizer)
    stage("binarize", binarize, corpus, folders["tokenizer"], folders["binarize"], settings.binarize)
    return records


def _write_report(config: Mapping[str, Any], records: Mapping[str, Record], out: Path) -> None:
    """Write manifest.json, report.md and lengths.png."""
    stages = {name: {key: record[key] for key in ("settings", "result", "files")} for name, record in records.items()}
    versions = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    manifest = {"config": config, "versions": versions, "stages": stages}
    write_text(out / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    text = f"# Data\n\n{_table(records)}\n\nSeconds are those of all processes together.\n\n"
    text += "![Tokens per document](lengths.png)\n"
    for name, record in records.items():
        if examples := record["result"].get("examples"):
            text += f"\n## Examples of documents dropped or shortened by {name}\n\n"
            text += "".join(f"- {reason}: {'; '.join(named)}\n" for reason, named in examples.items())
        if removed := record["result"].get("removed"):
            text += f"\n## Taken out of documents that {name} kept\n\n"
            text += "".join(f"- {reason}: {count:,}\n" for reason, count in removed.items())
        if rule := record["result"].get("rule"):
            unread = "".join(f"- {line}\n" for line in record["result"]["unread"])
            text += f"\n## The rule of {name}\n\n{rule}\n" + f"\nFiles that were not read:\n\n{unread}" * bool(unread)
        if skipped := record["result"].get("skipped"):
            text += f"\n## Input that could not be read by {name}\n\n" + "".join(f"- {line}\n" for line in skipped)
    write_text(out / "report.md", text)
    result = records["binarize"]["result"]
    with replace_when_done(out / "lengths.png") as partial:
        _plot_lengths(result["length_edges"], result["lengths"], partial)


def _table(records: Mapping[str, Record]) -> str:
    """A row per stage, in Markdown."""
    rows = ["| stage | documents | characters | tokens | seconds | dropped and why |", "|---|---:|---:|---:|---:|---|"]
    for name, record in records.items():
        result = record["result"]
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out(result))
        numbers = (f"{number:,}" if number else "" for number in totals(result))
        cells = [name, *numbers, f"{record['seconds']:,.1f}", reasons]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _plot_lengths(edges: Sequence[int], counts: Sequence[int], path: Path) -> None:
    """A histogram of the tokens per document, from the edges of the bins, (B + 1,), and their counts, (B,)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(counts, edges, fill=True, alpha=0.7)
    axes.set_xscale("log", base=2)
    used = [edge for edge, count in zip(edges, counts, strict=False) if count]
    axes.set_xlim(used[0] / 2, used[-1] * 4)
    axes.set(xlabel="tokens", ylabel="documents", title="Tokens per document")
    axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=110)
