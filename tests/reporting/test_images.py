"""`linformer report` shows images as they are, as the model sees them, and with what it fills in."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from data_prep.palette import NO_COLOUR, read_palette
from data_prep.run import run
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, untrained, write
from linformer_fairseq.cli import main

SIDE = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of random images, its model untrained."""
    for number in range(30):
        pixels = np.random.default_rng(number).integers(256, size=(SIDE, SIDE, 3)).astype(np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
    changes = [f"input={tmp_path / 'images'}", f"sources.0.size={SIDE}", "tokenizer.colours=20", "split.valid=0.3"]
    run("images", [*changes, "tokenizer.order=hilbert"], tmp_path / "prepared", 0)
    settings = {"_name": "linformer_roberta_tiny", "max_positions": SIDE**2 + 3, "projected_length": "4"}
    state = untrained(settings, 64).state_dict()
    (tmp_path / "run/run").mkdir(parents=True)
    data = tmp_path / "prepared/data"
    write(
        Checkpoint(state, settings, {"_name": "masked_lm", "data": str(data)}, 7), tmp_path / "run/checkpoint_best.pt"
    )
    (tmp_path / "run/run/config.yaml").write_text(yaml.safe_dump({"task": {"data": str(data)}}))
    (tmp_path / "run/metrics.jsonl").write_text(json.dumps({"split": "train", "update": 1, "start": 1, "loss": 1.0}))
    return tmp_path


def test_the_page_has_the_pictures(folder: Path, open_page: Callable[[str], Any], parts_of: Callable[..., Any]) -> None:
    pytest.importorskip("plotly", reason="pages need the extra report: pip install -e '.[report]'")
    page = folder / "page.html"
    assert main(["report", str(folder / "run"), "--out", str(page), "--samples", "3"]) == 0
    samples = parts_of(page, "pictures")
    colours = {tuple(bytes.fromhex(name)) for name in read_palette(folder / "prepared/data/palette.json")[2]}
    assert len(samples) == 3 and not parts_of(page, "texts")
    for sample in samples:
        whole, seen, filled = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).reshape(-1, 3)
            for content in sample["pictures"].values()
        )
        assert len(whole) == SIDE**2 and {*map(tuple, whole.tolist())} <= colours
        masked = (seen == NO_COLOUR).all(-1)
        right = int((whole[masked] == filled[masked]).all(-1).sum())
        assert sample["mark"] == f"{right} of {masked.sum()} right"
        assert (whole[~masked] == seen[~masked]).all() and (whole[~masked] == filled[~masked]).all()
    shown = open_page(page.as_uri()).execute_script("return [...document.images].map(e => [e.alt, e.naturalWidth])")
    assert shown == [[label, SIDE] for label in ("image", "what the model sees", "what it fills in")] * 3
