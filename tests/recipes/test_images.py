"""The measurement of images, from drawn pictures to accuracies and speeds, at a tiny size."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from recipes.measure import images


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:::hydra")
def test_every_contestant_has_an_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ATTENTIONS", {"Linformer": "linformer"})  # the other one differs in one setting
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    tune = images.tune
    monkeypatch.setattr(images, "tune", lambda *here: {images.ACCURACY: 50.0} if here[2:] else tune(*here))  # once
    assert images.MEASUREMENT.main(["--quick", "--out", str(tmp_path / "run")]) == 0
    cells = json.loads((tmp_path / "run/results.json").read_text())["cells"]
    ours = [f"digits, Linformer, {way}" for way in ("pretraining", "pretrained", "from scratch", "frozen")]
    assert [*cells][1:] == [*ours, "digits, linear model of pixels", "digits, convolutional net"]
    assert all(0 <= cells[name]["accuracy, %"] <= 100 for name in [*cells][2:])
    assert cells[ours[0]]["perplexity"] > 1 and cells["4 x 4, Linformer, round 0"]["images/s, training"] > 0
    assert (tmp_path / "run/digits/run/data/palette.json").is_file()


def test_drawn_pictures_are_the_same_again_and_of_many_colours() -> None:
    found = [images.glyphs(Namespace(glyphs=3, test=2, pixels=32)) for _ in range(2)]
    assert found[0][0].shape == (5, 32, 32, 3) and (found[0][0] == found[1][0]).all()
    assert {*found[0][1]} <= {*images.SYMBOLS} and len({*map(bytes, found[0][0].reshape(-1, 3))}) > 1000
