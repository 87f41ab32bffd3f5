"""Retrieval by a model before and after training on pairs of texts, and by BM25.

    python recipes/measure/retrieval.py model.pt DATA … --out RUN [--flags "--batch-size 128"]

A DATA is a folder with train.tsv, dev.tsv and test.tsv, as `linformer finetune pairs` reads them.
"""

import json
from functools import partial
from pathlib import Path

from linformer_fairseq.commands.finetune import main
from linformer_fairseq.measuring.study import Cells, Measurement, Options, comparison, flag

ROWS = {"BM25": "linear", "before training": "constant", "trained": "scores"}


def scores(options: Options, data: Path, row: str) -> dict[str, float]:
    """Of the test pairs; a training that is finished is not repeated."""
    out = options.out / data.name
    tables = f"--train {data}/train.tsv --dev {data}/dev.tsv --test {data}/test.tsv".split()
    main(["pairs", "--checkpoint", options.checkpoint, *tables, "--out", str(out), *options.flags.split()])
    return dict(json.loads((out / "result.json").read_text())[ROWS[row]]["test"])


def measure(options: Options, cells: Cells) -> None:
    cells.run({f"{data.name}, {row}": partial(scores, options, data, row) for data in options.data for row in ROWS})


FLAGS = [flag("checkpoint", str), flag("data", [Path], cells=True), flag("--flags", "", "of linformer finetune pairs")]
ABOUT = "Percent; documents are the passages of the test table, and those in it that nobody asks for."
MEASUREMENT = Measurement(__file__, __doc__, FLAGS, measure, comparison("Retrieval", ABOUT))

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
