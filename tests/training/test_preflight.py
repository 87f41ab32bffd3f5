"""A run that could train nothing is refused before it starts."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import write_json
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.training.preflight import (
    _check_data,
    _check_images,
    refuse_unchosen,
    refuse_unfitting,
    refuse_useless,
)


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("optimization.lr", [-1.0], "--lr -1.0: must be at least 0"),
        ("optimization.lr", [0.1, math.nan], "--lr nan"),
        ("optimization.lr", [math.inf], "--lr inf"),
        ("optimization.max_update", -3, "--max-update -3"),
        ("optimization.update_freq", [0], "--update-freq 0: must be at least 1"),
        ("dataset.batch_size", 0, "--batch-size 0"),
        ("dataset.max_tokens", -1, "--max-tokens -1"),
    ],
)
def test_a_number_that_trains_nothing_is_refused(setting: str, value: object, why: str) -> None:
    cfg = OmegaConf.structured(FairseqConfig())
    cfg.dataset.batch_size = 16
    refuse_useless(cfg)
    OmegaConf.update(cfg, setting, value)
    with pytest.raises(UsageError, match=why):
        refuse_useless(cfg)


def test_what_a_training_cannot_do_without_is_chosen() -> None:
    chosen = {"criterion": "masked_lm", "optimizer": {"_name": "muon"}, "lr_scheduler": "fixed"}
    chosen |= {"task": Namespace(_name="masked_lm"), "model": {"_name": "linformer_roberta_tiny", "dropout": 0.0}}
    refuse_unchosen(OmegaConf.create(chosen, flags={"allow_objects": True}))
    for section in chosen:
        for wrong, why in (
            *((value, f"{section}: none is chosen; .* {section}: {{_name: ") for value in (None, {}, "???")),
            *((value, f"{section}: other is unknown; ") for value in ("other", {"_name": "other"})),
        ):
            with pytest.raises(UsageError, match=why):
                refuse_unchosen(OmegaConf.create(chosen | {section: wrong}, flags={"allow_objects": True}))


@pytest.mark.parametrize(
    ("flags", "why"),
    [(("--lr", -1), "--lr -1"), (("--distributed-world-size", -1), "--distributed-world-size -1: must be at least 1")],
)
def test_a_run_ends_in_one_sentence(
    train_command: Callable[..., list[object]], finish: Callable[..., str], tmp_path: Path, flags: object, why: str
) -> None:
    output = finish(train_command(tmp_path / "run", "--max-update", 1, *flags), status=1)
    assert output.strip().splitlines()[-1].startswith(f"error: {why}") and "Traceback" not in output
    assert not list(tmp_path.rglob("*.pt"))


def test_a_sentence_too_long_to_validate_on_is_refused_before_the_first_update(
    run_fairseq: Callable[..., CompletedProcess[str]], tiny_data: Path, tmp_path: Path
) -> None:
    command = [
        "fairseq-train",
        tiny_data,
        "--user-dir",
        USER_DIR,
        "--arch",
        "linformer_roberta_tiny",
        "--task",
        "masked_lm",
    ]
    command += ["--criterion", "masked_lm", "--sample-break-mode", "complete", "--tokens-per-sample", 40]
    command += ["--projected-length", 8, "--optimizer", "adam", "--batch-size", 4, "--max-update", 1]
    command += ["--save-dir", tmp_path, "--no-epoch-checkpoints"]
    refused = run_fairseq(*command, check=False)
    assert refused.returncode and "| train_inner |" not in refused.stdout
    said = refused.stdout.splitlines()[-1]
    assert re.search(
        r"error: DATA has a sentence of \d\d tokens to validate on \(valid\), and the model takes 40: ", said
    )
    assert not (tmp_path / "checkpoint_last.pt").exists()
    run_fairseq(*command, "--skip-invalid-size-inputs-valid-test")  # as it says


def test_buffers_of_pairs_are_not_broadcast() -> None:
    cfg = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(FairseqConfig())))
    cfg.criterion = {"_name": "contrastive"}
    refuse_unfitting(cfg)
    cfg.distributed_training.broadcast_buffers = True
    with pytest.raises(UsageError, match="--broadcast-buffers with --criterion contrastive .* leave it out"):
        refuse_unfitting(cfg)


@pytest.mark.parametrize(
    ("order", "grid", "length", "mode", "why"),
    [
        ("raster", 2, 7, "none", ""),
        ("hilbert", 0, 7, "none", ""),
        ("hilbert", 2, 7, "none", "--position-grid 2: DATA .* has images of 2 x 2 pixels, hilbert order"),
        ("raster", 3, 7, "none", "--position-grid 3: DATA .* has images of 2 x 2 pixels, raster order"),
        (
            "raster",
            2,
            512,
            "none",
            "--tokens-per-sample 512 --sample-break-mode none: whole images of .* need 7 and none",
        ),
        ("raster", 2, 7, "complete", "--sample-break-mode complete: whole images"),
        (None, 2, 7, "none", r"--position-grid 2: DATA has no palette\.json, so it holds no images; leave it out"),
        (None, 0, 512, "complete", ""),
    ],
)
def test_samples_are_whole_images(tmp_path: Path, order: str, grid: int, length: int, mode: str, why: str) -> None:
    if order:
        write_json(tmp_path / "palette.json", {"side": 2, "order": order, "colours": ["ff0000"]})
    task = {"data": str(tmp_path), "tokens_per_sample": length, "sample_break_mode": mode}
    if not why:
        return _check_images(task, grid)
    with pytest.raises(UsageError, match=why):
        _check_images(task, grid)


def test_every_folder_of_data_is_checked_before_the_first_epoch(tmp_path: Path) -> None:
    for name, symbols in (
        ("one", "a 1\nb 2\n"),
        ("same", "a 7\nb 0\n"),
        ("other", "b 1\na 2\n"),
        ("empty", "a 1\nb 2\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dict.txt").write_text(symbols)
        if name != "empty":
            (tmp_path / name / "train.idx").touch()
    (tmp_path / "without").mkdir()  # fairseq needs no dictionary there
    (tmp_path / "without/train.idx").touch()
    cfg = OmegaConf.structured(FairseqConfig())

    def check(*names: str) -> None:
        _check_data(cfg, {"data": ":".join(str(tmp_path / name) for name in names), "tokens_per_sample": 64})

    check("one", "same", "without")
    for wrong, why in (("other", "other symbols"), ("missing", "no such folder"), ("empty", "--train-subset train")):
        with pytest.raises(UsageError, match=f"{tmp_path / wrong}.*{why}|{why}.*{tmp_path / wrong}"):
            check("one", "same", wrong)
    for name in ("one", "same"):
        (tmp_path / name / "vocab.bpe").write_text("merges")
    check("one", "same", "without")
    (tmp_path / "same/vocab.bpe").write_text("others")
    with pytest.raises(UsageError, match=f"{tmp_path / 'same'}: its vocab.bpe is not that of {tmp_path / 'one'}"):
        check("one", "without", "same")
