"""The tables in docs/benchmarks are those that the scripts make of the results stored beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from linformer_fairseq.measuring.study import Measurement
from recipes.measure import (
    conversion,
    converted,
    encode_speed,
    images,
    long_classifiers,
    long_documents,
    long_finetuning,
    lora,
    retrieval,
    update_speed,
)
from recipes.reproduce import (
    efficient_encoders,
    figure1_spectrum,
    figure3_perplexity,
    recipe_ladder,
    scaling,
    table2_downstream,
    table3_efficiency,
)

DOCS = Path(__file__).resolve().parents[2] / "docs/benchmarks"


@pytest.mark.parametrize(
    ("measurement", "file"),
    [
        (table3_efficiency.MEASUREMENT, "table3/table.md"),
        (table3_efficiency.MEASUREMENT, "table3/same_tokens/table.md"),
        (table3_efficiency.MEASUREMENT, "table3/adaptive/table.md"),
        (figure3_perplexity.MEASUREMENT, "figure3/table.md"),
        (figure3_perplexity.MEASUREMENT, "figure3/adaptive/table.md"),
        (figure1_spectrum.MEASUREMENT, "spectrum/table.md"),
        (table2_downstream.MEASUREMENT, "downstream/results.md"),
        (conversion.MEASUREMENT, "warm_start/table.md"),
        (update_speed.MEASUREMENT, "updates/results.md"),
        (long_documents.MEASUREMENT, "long_documents/table.md"),
        (long_documents.MEASUREMENT, "long_documents/shorter/table.md"),
        (long_finetuning.MEASUREMENT, "long_documents/fine_tuned/table.md"),
        (converted.MEASUREMENT, "converted/table.md"),
        (recipe_ladder.MEASUREMENT, "ladder/table.md"),
        (recipe_ladder.MEASUREMENT, "ladder/twenty_million/table.md"),
        (recipe_ladder.MEASUREMENT, "ladder/controls/table.md"),
        (recipe_ladder.MEASUREMENT, "ladder/adam/table.md"),
        (scaling.MEASUREMENT, "scaling/table.md"),
        (retrieval.MEASUREMENT, "retrieval/table.md"),
        (lora.MEASUREMENT, "lora/table.md"),
        (long_classifiers.MEASUREMENT, "long_classifiers/table.md"),
        (images.MEASUREMENT, "images/table.md"),
        (efficient_encoders.MEASUREMENT, "efficient_encoders/table.md"),
        (encode_speed.MEASUREMENT, "encoding/table.md"),
    ],
)
def test_stored_results_give_the_published_table(measurement: Measurement, file: str, tmp_path: Path) -> None:
    stored = (DOCS / file).with_name("results.json")
    assert measurement.main(["--results", str(stored), "--report", str(tmp_path / "again.md")]) == 0
    assert (tmp_path / "again.md").read_text() == (DOCS / file).read_text()
    for name in measurement.pictures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(stored.read_text())
