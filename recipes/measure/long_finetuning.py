"""Fine-tuned classifiers of long texts: a converted model that reads them whole, beside what its original can do.

    python recipes/reproduce/recipe_ladder.py DATA --updates 1635 --out LADDER \\
        --variants "muon, lr 0.006, 8 rows, masks 0.4, vectors x 3, exact attention"
    python recipes/measure/long_finetuning.py LADDER/run-69-1/checkpoints/checkpoint_last.pt \\
        --train imdb/train.tsv --test imdb/test.tsv --out RUN

The model is converted by `linformer convert from-roberta`, and each contestant fine-tuned by `linformer finetune train`
on texts of more than --words words. Positions beyond the original's repeat these. A tenth of the rows to train on
chooses learning rate and epoch of each contestant; the rows of --test serve for nothing else.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from linformer_fairseq.commands import convert, finetune
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.report import BASELINE, LINEAR, Row
from linformer_fairseq.io.files import write_text
from linformer_fairseq.measuring import study
from linformer_fairseq.measuring.study import Cells, Options, Results, flag, in_a_process, markdown, plain, spread
from linformer_fairseq.tables import read_table
from linformer_fairseq.training.metrics import read_metrics

SCORE = "test accuracy"
HEAD, EXACT = "original, first tokens", "exact attention, positions repeated"
OWN, K = ["--attention", "exact"], ["--projection", "adaptive", "--projected-length", "128"]
# Flags of from-roberta, whether it has more positions than the original, and --keep of fine-tuning.
CONTESTANTS: dict[str, tuple[Sequence[str], bool, str]] = {
    HEAD: (OWN, False, "head"),
    "converted, k = 128, W = 0": ([*K, "--local-window", "0"], True, "head"),
    "original, all in chunks": (OWN, False, "chunks"),
    "converted, k = 128, W = 64": ([*K, "--local-window", "64"], True, "head"),
    "original, first and last tokens": (OWN, False, "head-tail"),
    EXACT: (OWN, True, "head"),
}


def measure(options: Options, cells: Cells) -> None:
    for split in ("train", "test"):
        write_long(getattr(options, split), options.out / f"{split}.jsonl", options)
    cells.run({name: in_a_process(tuned, options, name) for name in options.contestants}, parallel=options.parallel)


def write_long(source: Path, target: Path, options: Options) -> None:
    """Texts of a table that are long enough, at most --rows of them, drawn once."""
    found = read_table(source, [options.text_column], options.label_column)
    rows = zip((text for (text,) in found.texts), found.labels or (), strict=True)
    long = [row for row in rows if len(row[0].split()) > options.words]
    if len({label for _, label in long}) < 2:
        raise UsageError(f"{source}: must have texts of more than {options.words} words in two classes; lower --words")
    drawn = [long[i] for i in np.random.default_rng(0).permutation(len(long))[: options.rows]]
    write_text(target, "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in drawn))


def folder_of(out: Path, name: str) -> Path:
    """The model and the runs of a contestant."""
    return out / "".join(c if c.isalnum() else "-" for c in name)


def tuned(options: Options, name: str) -> dict[str, Any]:
    """Scores of all seeds, those of the baselines, and the median seconds of a training."""
    flags, long, keep = CONTESTANTS[name]
    folder = folder_of(options.out, name)
    converted, out = folder / "model.pt", folder / "runs"
    words: list[object] = ["from-roberta", options.model, converted, "--force", *flags]
    words += ["--max-positions", options.max_positions] if long else []
    if convert.main([str(word) for word in words]):
        raise UsageError(f"{name}: conversion failed; the reason is above")
    words = ["train", "--checkpoint", converted, "--out", out, "--name", name, "--keep", keep]
    for table in ("train", "test"):
        words += [f"--{table}", options.out / f"{table}.jsonl"]
    words += ["--data", options.data] if options.data else []
    words += ["--seeds", options.seeds, "--epochs", options.epochs, "--batch-size", options.batch_size, "--lr"]
    if finetune.main([str(word) for word in [*words, *options.lr]]):
        raise UsageError(f"{name}: fine-tuning failed; the reason is above")
    row = Row(**json.loads((out / "results.json").read_text(encoding="utf-8"))[0])
    runs = [file.parent for file in out.rglob("checkpoints/metrics.jsonl")]
    return {
        "scores": row.scores[SCORE],
        BASELINE: row.constant[SCORE],
        LINEAR: row.linear[SCORE],
        "setting": row.setting,
        "rows": row.rows,
        "seconds": median(read_metrics(run)[-1]["seconds"] for run in runs),
    }


def table(results: Results) -> str:
    """A row for each contestant, below those of the baselines."""
    cells = results["cells"]
    first = next(iter(cells.values()))
    rows = [[name, f"{first[name]:.1f}", "", ""] for name in (BASELINE, LINEAR)]
    for name, found in cells.items():
        times = f"{cells[EXACT]['seconds'] / found['seconds']:.2f}" if EXACT in cells else ""
        rows.append([name, spread(found["scores"]), f"{found['seconds'] / 60:.1f}", times])
    sizes, settings = first["rows"], results["settings"]
    about = (
        f"{sizes['train']:,} texts of more than {settings['words']:,} words to train on, {sizes['dev']:,} to choose "
    )
    about += (
        f"the epoch, {sizes['test']:,} to score; {settings['max_positions']:,} tokens are read by converted models "
    )
    about += f"and by exact attention. {first['setting']}. {ABOUT}"
    return study.heading("Fine-tuned on long texts", results, about) + markdown(["", f"{SCORE}, %", *TIMES], rows)


TIMES = ("minutes of a training", "times exact")
ABOUT = "Medians over seeds, in brackets the least and the greatest. A training has one thread."
FLAGS = [
    flag("model", Path, "with exact attention: a .pt file, or a BERT or RoBERTa of Hugging Face (folder)"),
    flag("--train", Path, "table to train on"),
    flag("--test", Path, "table to score"),
    flag("--data", about="folder of its tokenizer (default: that of its pretraining)", type=Path),
    *plain(text_column="sentence", label_column="label"),
    flag("--words", 600, "shorter texts are left out"),
    flag("--rows", 1200, "at most of each table", quick=16),
    flag("--max-positions", 2048, "most tokens read", quick=1024),
    flag("--contestants", [*CONTESTANTS], choices=[*CONTESTANTS], cells=True),
    flag("--lr", [1e-3]),
    *plain(batch_size=16, epochs=(3, 1), seeds=(3, 1)),
    flag("--parallel", 1, "contestants at a time, one thread each", cells=True),
]
MEASUREMENT = study.Measurement(__file__, __doc__, FLAGS, measure, table)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
