"""The measurement of the streaming task at small scale: all lines are there, no corpus is left."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from fairseq.data.indexed_dataset import MMapIndexedDataset

from recipes.measure.streaming_speed import MEASUREMENT, make_corpus


@pytest.mark.slow
def test_the_report_has_every_line_and_the_corpora_are_gone(tmp_path: Path) -> None:
    words = ["--out", str(tmp_path / "out"), "--quick", "--report", str(tmp_path / "report.md")]
    assert MEASUREMENT.main(words) == 0
    report = (tmp_path / "report.md").read_text()
    rows = re.findall(r"^\| .* tokens.*masked_lm, (?:none|complete) \|(?: [\d.,-]+ \|){5}$", report, re.M)
    assert len(rows) == 8
    assert str(tmp_path) not in report and "torch 2" in report
    assert not (tmp_path / "out/corpora").exists()


def test_the_corpora_are_what_fairseq_reads(tmp_path: Path) -> None:
    for name, sparse in (("sparse", True), ("random", False)):
        make_corpus(tmp_path / name, 5000, sparse)
        data = MMapIndexedDataset(str(tmp_path / name / "train"))
        assert data.sizes.tolist() == [500] * 10
        assert (np.unique(data[9]).tolist() == [0]) == sparse
