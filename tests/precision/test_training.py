"""Whole runs of `fairseq-train` in 16 bit, emulated on the CPU, against 32 bit, and against themselves when resumed."""

from __future__ import annotations

import os
import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.layers.config import PROJECTIONS, SHARINGS
from linformer_fairseq.training.signals import REQUEUE

PAIRS = ("adam and masked_lm", "the fused pair", "streaming")
LOW = ("fp16", "memory-efficient fp16", "amp", "bf16", "memory-efficient bf16")
# Each pair meets each sharing, and each kind of projection meets each pair and most sharings.
MODELS = [
    (pair, SHARINGS[s], PROJECTIONS[(p + s) % len(PROJECTIONS)]) for p, pair in enumerate(PAIRS) for s in range(4)
]


@pytest.mark.slow
@pytest.mark.parametrize(("pair", "sharing", "projection"), MODELS)
def test_curves_are_those_of_32_bit(
    pair: str, sharing: str, projection: str, emulator: Any, modes: Any, pairs: Any, tmp_path: Path
) -> None:
    model = ("--projection-sharing", sharing, "--projection", projection, "--max-update", 24, "--no-save")
    expected = emulator.run(tmp_path / "fp32", *pairs[pair], *model).losses
    assert expected[-1][1] < 0.9 * expected[0][1]
    for mode in LOW[:4]:
        run = emulator.run(tmp_path / mode, *pairs[pair], *model, *modes[mode])
        assert [update for update, _ in run.losses] == list(range(1, 25)), mode
        assert [loss for _, loss in run.losses] == pytest.approx([loss for _, loss in expected], rel=0.01), mode


@pytest.mark.parametrize("mode", ["fp16", "memory-efficient fp16", "amp"])
@pytest.mark.parametrize("pair", PAIRS[:2])
def test_gradients_that_overflow_cost_their_updates_only(
    mode: str, pair: str, emulator: Any, modes: Any, pairs: Any, tmp_path: Path
) -> None:
    bad = {3: float("inf"), 7: float("nan"), 9: float("-inf")}
    flags = (*pairs[pair], *modes[mode], "--max-update", 12, "--no-save")
    undisturbed = emulator.run(tmp_path / "undisturbed", *flags)
    run = emulator.run(tmp_path / "run", *flags, gradients=bad)
    assert len(re.findall("overflow detected", run.output)) == 3
    assert [update for update, _ in run.losses] == list(range(1, 13))
    # --amp tries the same batch again, twice in a run (fairseq never resets that count); --fp16 goes on with the next.
    same = 6 if mode == "amp" else 2
    expected = [loss for _, loss in undisturbed.losses[:same]]
    assert [loss for _, loss in run.losses[:same]] == pytest.approx(expected, rel=0.01)
    assert run.losses[-1][1] == pytest.approx(undisturbed.losses[-1][1], rel=0.1)


@pytest.mark.parametrize("mode", LOW)
@pytest.mark.parametrize("pair", PAIRS[:2])
def test_resuming_is_exact_to_the_bit(
    mode: str, pair: str, emulator: Any, modes: Any, pairs: Any, tmp_path: Path, same_end: Any
) -> None:
    # The scale of the loss changes after every 16 updates and after each overflow: its counters matter.
    flags = (*pairs[pair], *modes[mode], "--dropout", 0.1, "--fp16-scale-window", 16)
    bad = {} if "bf16" in mode else {5: float("inf")}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    emulator.run(whole, *flags, "--max-update", 40, gradients=bad)
    emulator.run(parts, *flags, "--max-update", 20, gradients=bad)
    emulator.run(parts, *flags, "--max-update", 40)
    same_end(whole, parts)


@pytest.mark.parametrize(("before", "after"), [*pairwise((*LOW, LOW[0])), ("fp16", "bf16"), ("bf16", "fp16")])
def test_another_precision_goes_on(
    before: str, after: str, emulator: Any, modes: Any, pairs: Any, tmp_path: Path
) -> None:
    flags = (*pairs["the fused pair"], "--lr-scheduler", "fixed")
    first = emulator.run(tmp_path, *flags, *modes[before], "--max-update", 10)
    saved = first.state()
    then = emulator.run(tmp_path, *flags, *modes[after], "--max-update", 11, "--lr", 0)
    assert [update for update, _ in then.losses] == [11]
    assert then.losses[0][1] == pytest.approx(first.losses[-1][1], rel=0.1)
    resumed = then.state()
    # With a learning rate of 0 the update leaves the parameters as they were loaded.
    lossless = not after.startswith("memory")  # which has no float32 copy
    for name, value in saved["model"].items():
        found = resumed["model"][name]
        dtype = torch.float32 if lossless else torch.float16 if after.endswith("fp16") else torch.bfloat16
        assert torch.equal(found, value if name.endswith("lr_scale") else value.to(dtype).float()), name
    states = resumed["last_optimizer_state"]["state"].values()
    assert {state["step"] for state in states} == {11}


@pytest.mark.parametrize("mode", ["fp16", "bf16"])
def test_saved_parameters_are_the_32_bit_ones(mode: str, emulator: Any, modes: Any, pairs: Any, tmp_path: Path) -> None:
    run = emulator.run(tmp_path, *pairs["the fused pair"], *modes[mode], "--max-update", 3)
    low = {"fp16": torch.float16, "bf16": torch.bfloat16}[mode]
    learnt = [value for name, value in run.state()["model"].items() if value.dim() and not name.endswith("lr_scale")]
    assert {value.dtype for value in learnt} == {torch.float32}
    assert any(not torch.equal(value, value.to(low).float()) for value in learnt)


@pytest.mark.parametrize("mode", ["fp16", "memory-efficient fp16"])
def test_a_checkpoint_of_fairseqs_own_loads(mode: str, emulator: Any, modes: Any, pairs: Any, tmp_path: Path) -> None:
    """One without master weights and counters, as before this project saved them."""
    flags = (*pairs["the fused pair"], *modes[mode])
    path = emulator.run(tmp_path, *flags, "--max-update", 3).save_dir / "checkpoint_last.pt"
    state = torch.load(path, weights_only=False)
    state["model"] = {name: value.half().float() for name, value in state["model"].items()}
    del state["last_optimizer_state"]["loss_scaler"]
    torch.save(state, path)
    path.with_name("checkpoint_last.pt.sha256").unlink()
    assert [update for update, _ in emulator.run(tmp_path, *flags, "--max-update", 5).losses] == [4, 5]


@pytest.mark.parametrize("mode", ["fp16", "amp"])
def test_two_ranks_save_on_a_signal_and_resume(
    mode: str, emulator: Any, modes: Any, pairs: Any, srun: Any, tmp_path: Path, same_end: Any
) -> None:
    launcher, environment = srun
    flags = (*pairs["the fused pair"], *modes[mode], "--distributed-world-size", 2, "--find-unused-parameters")
    start = {"launcher": launcher, **environment}
    emulator.run(tmp_path / "whole", *flags, "--max-update", 12, **start)
    process = emulator.start(tmp_path / "parts", *flags, "--max-update", 12, **start)
    for line in process.stdout:
        if '"num_updates": "1"' in line:
            os.killpg(process.pid, signal.SIGUSR1)
            break
    output, _ = process.communicate()
    assert process.returncode == REQUEUE, output[-5000:]
    assert "SIGUSR1: saving after this update" in output
    emulator.run(tmp_path / "parts", *flags, "--max-update", 12, **start)
    same_end(tmp_path / "whole", tmp_path / "parts")


def test_a_rank_that_hangs_is_ended_within_the_heartbeat_timeout(
    emulator: Any, pairs: Any, srun: Any, tmp_path: Path
) -> None:
    """Its log has the stacks of its threads. If our handlers took its signal, it would end with 3."""
    launcher, environment = srun
    flags = (*pairs["the fused pair"], "--distributed-world-size", 2, "--heartbeat-timeout", 4, "--max-update", 12)
    run = emulator.run(tmp_path, *flags, gradients={3: "hang"}, launcher=launcher, **environment, status=None)
    assert run.status == signal.SIGABRT, run.output[-3000:]
    assert "Killing job for not making progress in 4 seconds" in run.output
    stacks = "".join(log.read_text() for log in tmp_path.glob("run/logs/rank-*.log"))
    assert "Fatal Python error: Aborted" in stacks and "in counted" in stacks
