"""Plans of recipes: what their numbers are, and that the advice leads on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from linformer_fairseq.commands import plan as command
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers import EncoderConfig
from linformer_fairseq.planning.devices import DEVICES, find_device
from linformer_fairseq.planning.memory import BYTES_PER_PARAMETER, parameters_of
from linformer_fairseq.planning.plan import Plan, measured_speed, plan_of
from linformer_fairseq.training.hardware import peak_of_gpu
from linformer_fairseq.training.recipe import fairseq_train_argv, find_recipe

CFG = EncoderConfig(1000, 128, embed_dim=64, ffn_dim=128, num_heads=4, num_layers=2)
V100 = DEVICES["v100-16gb"]
PLAN = Plan(CFG, V100, 4, 8, 2, 100, "fp16", masked=0.15, utilisation=0.5, checkpoints=3)


def of_recipe(name: str, *flags: str, data: str | None = None, gpus: int = 1) -> Plan:
    argv = [*fairseq_train_argv(find_recipe(name), data or "DATA", Path("RUN")), *flags]
    return plan_of(argv, "a100-40gb", gpus, symbols=None if data else 50265)


def test_every_device_has_a_peak_in_16_bit() -> None:
    for name, device in DEVICES.items():
        assert peak_of_gpu(device.cuda_name, "fp16"), name
    with pytest.raises(UsageError, match="--device v9000: choose one of v100-16gb"):
        find_device("v9000")


def test_a_recipe_becomes_a_plan_and_flags_win_over_it() -> None:
    found = of_recipe("base_n4096_k256", "--update-freq", "3", gpus=8)
    assert (found.rows, found.accumulated, found.updates, found.mode) == (2, 3, 250_000, "fp16")
    assert found.tokens == 8 * 3 * 2 * 4096 and found.cfg.vocab_size == 50265
    assert of_recipe("tiny_n512_k128").mode == "fp32"
    modes = {flag: of_recipe("tiny_n512_k128", flag).mode for flag in ("--amp", "--bf16", "--memory-efficient-fp16")}
    assert set(modes.values()) == {"amp", "bf16", "memory-efficient fp16"} and set(modes.values()) < set(
        BYTES_PER_PARAMETER
    )


def test_the_vocabulary_is_that_of_the_data(tiny_data: Path, tmp_path: Path) -> None:
    symbols = len((tiny_data / "dict.txt").read_text().splitlines()) + 5
    assert of_recipe("tiny_n512_k128", data=str(tiny_data)).cfg.vocab_size == symbols
    with pytest.raises(UsageError, match=r"has no dict\.txt"):
        of_recipe("tiny_n512_k128", data=str(tmp_path))


def test_time_is_operations_at_a_share_of_the_peak() -> None:
    assert PLAN.seconds == pytest.approx(PLAN.operations / (125e12 * 0.5 * 4))
    assert PLAN.recomputing(True).seconds == pytest.approx(PLAN.seconds * 4 / 3)
    assert replace(PLAN, mode="bf16").seconds is None  # which a V100 does not compute
    assert PLAN.disk == 3 * 12 * parameters_of(CFG)


def test_a_run_that_fits_has_the_memory_of_its_largest_batch() -> None:
    assert PLAN.fits and PLAN.most_rows() > PLAN.rows
    edge = PLAN.with_rows(PLAN.most_rows())
    assert edge.rows * edge.accumulated == PLAN.rows * PLAN.accumulated
    at_the_limit = replace(PLAN, rows=PLAN.most_rows())
    assert at_the_limit.fits and not replace(PLAN, rows=at_the_limit.rows + 2).fits


def test_the_advice_for_a_run_that_does_not_fit_makes_it_fit() -> None:
    large = replace(PLAN, rows=1024)
    assert large.fits
    small = replace(large, device=V100._replace(gigabytes=1.6))
    with pytest.raises(
        UsageError, match=r"needs \d+\.\d GB of each GPU, which has 1\.6 GB .*use --batch-size"
    ) as raised:
        small.refuse_too_large()
    rows, accumulated = map(int, re.search(r"--batch-size (\d+) --update-freq (\d+)", str(raised.value)).groups())
    followed = replace(small, rows=rows, accumulated=accumulated)
    assert followed.fits and followed.tokens == small.tokens
    assert "or a device of v100-16gb" in str(raised.value)


def test_recomputing_is_advised_where_one_row_does_not_fit_otherwise() -> None:
    one = replace(PLAN, cfg=replace(CFG, max_positions=32768, num_layers=12), rows=1, accumulated=1)
    need = {recompute: sum(one.recomputing(recompute).memory.values()) / 1e9 for recompute in (False, True)}
    tight = replace(one, device=V100._replace(gigabytes=(need[True] + need[False]) / 2))
    assert "use --checkpoint-activations --batch-size 1" in next(tight.advice())
    assert "leave out --checkpoint-activations" in next(one.recomputing(True).advice())


def test_the_command_shows_a_plan_and_refuses_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["base_n512_k128", "--gpus", "8", "--price", "2"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[:6]] == "update memory operations time energy disk".split()
    with pytest.raises(UsageError, match="use --batch-size 64 --update-freq 4"):
        command.main(["base_n512_k128", "--", "--batch-size", "128", "--update-freq", "2"])
    for wrong in (["--gpus", "0"], ["--utilisation", "nan"], ["--price", "-1"]):
        with pytest.raises(SystemExit):
            command.main(["base_n512_k128", *wrong])
        assert f"argument {wrong[0]}: {wrong[1]}: must be at least" in capsys.readouterr().err


def test_the_speed_may_be_that_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [("train", 1e12), ("train", 4e12), ("valid", None), ("train", 8e12), ("train", 4e12)]
    rows = [
        {"update": i, "start": 1, "split": split, "flops_per_second": x, "tokens": 800 * i}
        for i, (split, x) in enumerate(lines, start=1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match=r"--calibrate .*: needs metrics\.jsonl .* and run/config\.yaml"):
        measured_speed(tmp_path)
    (tmp_path / "run").mkdir()
    cfg = {"task": {"tokens_per_sample": 100}, "dataset": {"batch_size": 4, "max_tokens": None}}
    cfg |= {"distributed_training": {"distributed_world_size": 2}, "optimization": {"update_freq": [2]}}
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(cfg))
    assert measured_speed(tmp_path) == 4e12  # of the median, by half of the processes; half of a row is padding
    cfg["dataset"] = {"batch_size": None, "max_tokens": 450}
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(cfg))
    assert measured_speed(tmp_path) == 4e12
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(cfg | {"dataset": {"batch_size": 2, "max_tokens": None}}))
    assert measured_speed(tmp_path) == 2e12
    assert replace(PLAN, measured=2e12).seconds == pytest.approx(PLAN.operations / (2e12 * 4))
    assert command.main(["base_n512_k128", "--gpus", "8", "--calibrate", str(tmp_path)]) == 0
    assert "at the measured 2 TFLOP/s of a GPU" in capsys.readouterr().out


def test_the_sweep_shows_fewer_rows_for_longer_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["tiny_n512_k128", "--sweep"]) == 0
    rows = [int(line.split()[1]) for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == sorted(rows, reverse=True) and rows[0] > rows[-1] > 0
