"""The table of results."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from finetuning.report import Row, write_table

ROWS = [
    Row("SST-2", "lr 0.0001, batch 32", {"train": 67349, "dev": 872}, {"accuracy": [80.0, 84.0, 82.0]}),
    Row("MRPC", "lr 0.0002, batch 16", {"train": 3668, "dev": 408}, {"accuracy": [70.0], "f1": [81.25]}),
]


def test_median_and_spread_stand_beside_the_papers_figures(tmp_path: Path) -> None:
    lines = write_table(ROWS, tmp_path).splitlines()
    sst2 = "| SST-2 | 67,349 | 872 | accuracy | 82.0 | 80.0 | 84.0 | 3 | lr 0.0001, batch 32 | 93.1 | 93.2 |"
    assert lines[2] == sst2
    assert lines[4] == "| MRPC | 3,668 | 408 | f1 | 81.2 | 81.2 | 81.2 | 1 | lr 0.0002, batch 16 |  |  |"
    assert (tmp_path / "results.md").read_text().splitlines() == lines
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[2] == ["SST-2", "lr 0.0001, batch 32", "accuracy", "2", "84.0"] and len(rows) == 6
    assert json.loads((tmp_path / "results.json").read_text())[1]["scores"]["f1"] == [81.25]
