"""Retrieval by a model before and after training on pairs of texts, and by BM25.

    python recipes/measure/retrieval.py model.pt DATA … --out RUN [--flags "--batch-size 128"]

A DATA is a folder with train.tsv, dev.tsv and test.tsv, as `linformer finetune pairs` reads them.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from linformer_fairseq.commands.finetune import main
from linformer_fairseq.measuring.study import Cells, Measurement, comparison

ROWS = {"BM25": "linear", "before training": "constant", "trained": "scores"}


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint")
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--flags", default="", help="of linformer finetune pairs")


def scores(options: argparse.Namespace, data: Path, row: str) -> dict[str, float]:
    """Of the test pairs; a training that is finished is not repeated."""
    out = options.out / data.name
    tables = f"--train {data}/train.tsv --dev {data}/dev.tsv --test {data}/test.tsv".split()
    main(["pairs", "--checkpoint", options.checkpoint, *tables, "--out", str(out), *options.flags.split()])
    return dict(json.loads((out / "result.json").read_text())[ROWS[row]]["test"])


def measure(options: argparse.Namespace, cells: Cells) -> None:
    cells.run({f"{data.name}, {row}": partial(scores, options, data, row) for data in options.data for row in ROWS})


ABOUT = "Percent; documents are the passages of the test table, and those in it that nobody asks for."
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, comparison("Retrieval", ABOUT), choices=("data",))

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
