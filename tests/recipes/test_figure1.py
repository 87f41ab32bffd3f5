"""Figure 1: what is measured of a checkpoint, and its table."""

from __future__ import annotations

import json
import random
from pathlib import Path

from recipes.reproduce import figure1_spectrum as study


def test_a_checkpoint_with_a_projection_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(random.Random(0).choices("the river garden child teacher book city reads".split(), k=900)))
    words = [str(checkpoint), str(text), "--windows", "8", "--quick", "--out", str(tmp_path / "run")]
    assert study.MEASUREMENT.main(words) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    cell = results["cells"]["attention"]
    assert cell["passages"] == [1, 64] and cell["ranks"] == [8, 16, 32]
    kinds = {"rank k, P·V", "rank k", "blocks", "adaptive", "adaptive, window 8"}
    assert {(kind, k) for kind, k, _ in cell["rows"]} == {
        *((kind, k) for kind in kinds for k in (8, 16, 32)),
        ("window 8 alone", 0),
        ("the checkpoint's own", 16),
    }
    by_name = {(kind, k): found for kind, k, found in cell["rows"]}
    for kind in kinds:
        assert all(a > b for a, b in zip(by_name[kind, 8], by_name[kind, 32], strict=True)), kind
    assert {path.name for path in (tmp_path / "run").glob("*.png")} == {"spectrum.png", "errors.png"}
    lines = (tmp_path / "run/table.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| rank k |")]) == 3
    assert "/" not in "".join(line for line in lines if line.startswith("    python")).replace("recipes/reproduce/", "")
