"""`linformer report`: a page about training runs, from what `runs.py` reads and what `model.py` computes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep import funnel
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.page import Page
from linformer_fairseq.io.records import read_record
from linformer_fairseq.reporting.runs import CHECKPOINTS, Run
from linformer_fairseq.training.metrics import FILE

SEED = 1  # chooses the validation samples
FIGURES = {
    "loss": "Loss",
    "perplexity": "Perplexity",
    "lr": "Learning rate",
    "gradient_norm": "Norm of the gradient",
    "tokens_per_second": "Tokens per second",
    "memory_bytes": "Memory in bytes",
}
AXES = {"updates": "update", "tokens": "tokens", "hours": "hours"}  # of the curves: keys of a line, by name


def write_report(folders: Sequence[Path], out: Path, samples: int, sentence: str | None) -> None:
    """Write a page about the runs in `folders`; UsageError as of `Run` and `Page`."""
    page = Page("Training runs" if len(folders) > 1 else f"Training run {folders[0].resolve().name}", out)
    runs = [Run(folder) for folder in folders]
    names = [run.name for run in runs]
    shared = os.path.commonpath([run.folder.resolve().parent for run in runs])
    for run in runs:  # more of the paths where names are not enough to tell runs apart
        run.name = run.name if names.count(run.name) == 1 else os.path.relpath(run.folder.resolve(), shared)
    trained = [run for run in runs if run.lines]
    if trained:
        _add_overview(page, trained)
        _add_curves(page, trained)
        _add_starts(page, trained)
        _add_settings(page, trained)
    for data in dict.fromkeys(run.data for run in trained):
        _add_data(page, [run for run in trained if run.data == data])
    for run in trained:
        _add_model(page, run, samples, sentence)
    _add_scores(page, runs)
    page.write()


def _add_overview(page: Page, runs: list[Run]) -> None:
    page.section("Runs", "Loss and perplexity are those of the best validation, or else of the last log interval.")
    rows = []
    for run in runs:
        last = run.lines[-1]
        best = run.best or last
        figures = [last.get("update"), last.get("tokens"), last["hours"], best.get("loss"), best.get("perplexity")]
        rows.append([run.name, *figures, best.get("loss_unit"), last.get("time")])
    columns = ["run", "updates", "tokens", "hours", "loss", "perplexity", "unit of the loss", "last line"]
    page.table(columns, rows)


def _add_curves(page: Page, runs: list[Run]) -> None:
    page.section("Curves")
    for key, title in FIGURES.items():
        curves = {(run, line["split"]): None for run in runs for line in run.lines if line.get(key) is not None}
        if curves:
            views = {name: [_trace(*of, key, axis) for of in curves] for name, axis in AXES.items()}
            page.plot(title, views, yaxis={"type": "log"} if key == "perplexity" else {})
        else:
            page.note(f"{title}: no line of {FILE} has `{key}`, which not every criterion and machine reports.")


def _trace(run: Run, split: str, key: str, axis: str) -> dict[str, Any]:
    points = [(line.get(axis), line.get(key)) for line in run.lines if line["split"] == split]
    x, y = map(list, zip(*points, strict=True))
    mode = "lines" if split == "train" else "lines+markers"
    return {"name": f"{run.name} {split}", "mode": mode, "x": x, "y": y}


def _add_starts(page: Page, runs: list[Run]) -> None:
    lacking = ", ".join(run.name for run in runs if not run.starts)
    note = "Why a start ended is what the logs of its processes say."
    page.section("Starts", f"Without run/environment.json: {lacking}." if lacking else note)
    rows = []
    for run in runs:
        ends = run.ends()
        for entry in run.starts:
            goes_on = "it goes on, or was killed" if entry is run.starts[-1] else "it was killed"
            end = ends.get(entry["start"], f"no reason in its logs: {goes_on}")
            changed = [f"{key}: {old} → {new}" for key, (old, new) in entry.get("settings_changed", {}).items()]
            about = [run.name, entry["start"], entry["time"], entry.get("host"), entry.get("slurm_job")]
            rows.append([*about, entry["updates_before"], "\n".join(changed) or None, end])
    if rows:
        columns = ["run", "start", "time", "host", "Slurm job", "after updates", "settings changed", "its end"]
        page.table(columns, rows)


def _add_settings(page: Page, runs: list[Run]) -> None:
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    page.section("Configuration", "" if names else "No run/config.yaml, so the settings are not known.")
    if names:
        rows = [[name, *(run.settings.get(name) for run in runs)] for name in names]
        columns = ["setting", *(run.name for run in runs)]
        if len(runs) > 1:
            page.table(columns, [row for row in rows if len(set(row[1:])) > 1])
        page.table(columns, rows, fold="all settings")


def _add_data(page: Page, runs: list[Run]) -> None:
    """The data that these runs share."""
    data, manifest = runs[0].data, runs[0].manifest
    missing = f"No manifest.json beside {data}; `linformer prepare run` writes it."
    missing = missing if data else "No run/config.yaml names the data."
    page.section(f"Data of {', '.join(run.name for run in runs)}", str(data) if manifest else missing)
    if manifest:
        order = sorted(manifest["stages"], key=lambda name: funnel.STAGES.index(name.split()[0]))
        results = {name: manifest["stages"][name]["result"] for name in order}
        page.table(funnel.COLUMNS, funnel.rows(results))
        tokenizer = {**manifest["config"].get("tokenizer", {}), **results.get("tokenizer", {})}
        page.table(["tokenizer", "value"], [[key, str(value)] for key, value in tokenizer.items()])


def _add_model(page: Page, run: Run, samples: int, sentence: str | None) -> None:
    title = f"Model of {run.name}"
    if run.checkpoint is None:
        page.section(title, f"No {' or '.join(CHECKPOINTS)} yet, so there is no model to look at.")
        return
    from data_prep.palette import PaletteEncoder
    from linformer_fairseq.checkpoints.checkpoint import read
    from linformer_fairseq.inference.sequences import encode, tokenizer_of
    from linformer_fairseq.reporting.model import Looking, heatmap

    page.section(title, f"From {run.checkpoint}.")
    try:
        checkpoint = read(run.checkpoint)
        encoder = tokenizer_of(checkpoint, run.data)
        model = Looking(checkpoint, encoder)
        valid = (run.data or checkpoint.data) / str(run.settings.get("dataset.valid_subset", "valid")).split(",")[0]
        filled = model.fill(valid, max(samples, 1), SEED) if valid.with_suffix(".idx").is_file() else []
    except UsageError as error:
        page.note(f"Not looked at: {error}.")
        return
    if not filled:
        page.note(f"No validation samples: there is no {valid}.idx, or nothing in it.")
    for number, sample in enumerate(filled[:samples], start=1):
        right = int(((sample.ids == sample.filled) & sample.masked).sum())
        about = f"Sample {number}", f"{right} of {int(sample.masked.sum())} right"
        if isinstance(encoder, PaletteEncoder):
            page.pictures(*about, sample.pictures(encoder))
        else:
            page.texts(*about, sample.texts(encoder))
    pictures = {name: heatmap(z, colorscale="RdBu", zmid=0) for name, z in model.projections().items()}
    if pictures:
        axis = {"title": "position, or of other kinds than linear a channel's tap"}
        page.plot("Projections, large ones as means of neighbours", pictures, xaxis=axis)
    else:
        page.note("No projections: this model has no learned E.")
    ids = filled[0].ids[:32] if filled else None
    if sentence is not None:
        import torch

        ids = torch.from_numpy(encode([(sentence,)], encoder, model.config.max_positions).ids[0])
    if ids is not None and (found := model.attention(ids)):
        rows = [f"{place} {encoder.names[i]}" for place, i in enumerate(ids.tolist())]
        looks = {"y": rows, "colorscale": "Viridis"}
        views = {f"layer {i}, {kind}": heatmap(z, **looks) for i, (kind, z) in enumerate(found, start=1)}
        page.plot("Attention, mean of the heads", views, height=200 + 14 * len(ids), yaxis={"autorange": "reversed"})
    else:
        page.note("No attention: " + ("no --sentence was given." if ids is None else "this model has none."))


def _add_scores(page: Page, runs: list[Run]) -> None:
    rows = []
    for run in runs:
        for path in run.results:
            for evaluation, scores in (read_record(path) or {}).get("scores", {}).items():
                rows += [[run.name, str(path.parent), evaluation, name, value] for name, value in scores.items()]
    where = "No result.json of a fine-tuning in these folders; name those of `linformer finetune` or `glue` too."
    page.section("Fine-tuning", "" if rows else where)
    if rows:
        page.table(["run", "folder", "rows", "metric", "score"], rows)
