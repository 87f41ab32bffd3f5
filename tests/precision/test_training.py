"""Whole runs of `fairseq-train` in 16 bit, emulated on the CPU, against 32 bit, and against themselves when resumed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from linformer_fairseq.layers.config import PROJECTIONS, SHARINGS
from linformer_fairseq.training.signals import REQUEUE

PAIRS = ("adam and masked_lm", "the fused pair", "streaming")
SCALED = ("fp16", "memory-efficient fp16", "amp")
LOW = (*SCALED, "bf16", "memory-efficient bf16")
KINDS: dict[str, dict[str, object]] = {kind: {"model.projection": kind} for kind in PROJECTIONS}
KINDS["adaptive with a window"] = {"model.projection": "adaptive", "model.local_window": 4}
UPDATES = 8
# Pooling has no parameters to share.
MODELS = [(kind, sharing) for kind in KINDS for sharing in (SHARINGS[:1] if kind.endswith("pool") else SHARINGS)]


@pytest.fixture(scope="module", params=PAIRS[:2])  # streaming has the optimizer and criterion of the fused pair
def curves(request: Any, emulator: Any, modes: Any, pairs: Any, tmp_path_factory: Any) -> dict[str, list[float]]:
    """The losses of each model in each precision, by "kind, sharing, precision"."""
    runs = {
        f"{kind}, {sharing}, {mode}": {**KINDS[kind], "model.projection_sharing": sharing, **modes[mode]}
        for kind, sharing in MODELS
        for mode in ("fp32", *LOW[:4])
    }
    flags = (*pairs[request.param], "--max-update", UPDATES, "--lr", "6e-3", "--no-save")
    ran = emulator.each(tmp_path_factory.mktemp("curves"), runs, *flags)
    assert all([update for update, _ in run.losses] == list(range(1, UPDATES + 1)) for run in ran.values())
    found = {name: [loss for _, loss in run.losses] for name, run in ran.items()}
    # The settings have had an effect: models differ in parameters or losses, precisions in losses or a loss scale.
    # (Where heads have channels of their own, headwise is as good as none.)
    sizes = {name: re.search(r"num. shared model params: ([\d,]+)", run.output) for name, run in ran.items()}
    models = [f"{kind}, {sharing}, fp32" for kind, sharing in MODELS if sharing != "headwise"]
    assert len({(sizes[name][1], *found[name]) for name in models}) == len(models)
    assert all(found[f"{model}, bf16"] != found[f"{model}, fp32"] for model in map(", ".join, MODELS))
    assert all(('"loss_scale"' in run.output) is name.endswith(SCALED) for name, run in ran.items())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sharing"), MODELS)
def test_curves_are_those_of_32_bit(kind: str, sharing: str, curves: dict[str, list[float]]) -> None:
    expected = curves[f"{kind}, {sharing}, fp32"]
    assert expected[-1] < 0.9 * expected[0]
    for mode in LOW[:4]:
        assert curves[f"{kind}, {sharing}, {mode}"] == pytest.approx(expected, rel=0.01), mode


@pytest.mark.parametrize("pair", PAIRS[:2])
def test_gradients_that_overflow_cost_their_updates_only(
    pair: str, emulator: Any, modes: Any, pairs: Any, tmp_path: Path
) -> None:
    bad = {3: float("inf"), 7: float("nan"), 9: float("-inf")}
    runs = {mode: {**modes[mode], "gradients": bad} for mode in SCALED}
    runs |= {f"{mode}, undisturbed": modes[mode] for mode in SCALED}
    ran = emulator.each(tmp_path, runs, *pairs[pair], "--max-update", 12, "--no-save")
    for mode in SCALED:
        run, undisturbed = ran[mode], ran[f"{mode}, undisturbed"]
        assert len(re.findall("overflow detected", run.output)) == 3, mode
        assert [update for update, _ in run.losses] == list(range(1, 13)), mode
        # --amp tries the same batch again, twice in a run (fairseq never resets that count); --fp16 goes on.
        same = 6 if mode == "amp" else 2
        expected = [loss for _, loss in undisturbed.losses[:same]]
        assert [loss for _, loss in run.losses[:same]] == pytest.approx(expected, rel=0.01), mode
        assert run.losses[-1][1] == pytest.approx(undisturbed.losses[-1][1], rel=0.1), mode


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_resuming_is_exact_to_the_bit(
    pair: str, emulator: Any, modes: Any, pairs: Any, tmp_path: Path, same_end: Any
) -> None:
    # The scale of the loss changes after every 16 updates and after each overflow: its counters matter.
    flags = (*pairs[pair], "--dropout", 0.1, "--fp16-scale-window", 16)
    bad = {mode: {5: float("inf")} if mode in SCALED else {} for mode in LOW}

    def runs(folder: str, updates: int, gradients: Any) -> dict[str, Any]:
        own = {mode: {**modes[mode], "gradients": gradients.get(mode, {})} for mode in LOW}
        return {f"{folder}/{mode}": {**own[mode], "optimization.max_update": updates} for mode in LOW}

    emulator.each(tmp_path, runs("whole", 40, bad) | runs("parts", 20, bad), *flags)
    emulator.each(tmp_path, runs("parts", 40, {}), *flags)
    for mode in LOW:
        same_end(tmp_path / "whole" / mode, tmp_path / "parts" / mode)


@pytest.mark.slow
def test_muon_learns_in_every_precision_and_resumes_to_the_bit(
    emulator: Any, modes: Any, pairs: Any, tmp_path: Path, same_end: Any
) -> None:
    """Also with --fp16, whose copy of the parameters is otherwise flat and has no matrices."""
    flags = (*pairs["the fused pair"], "--optimizer", "muon")

    def runs(folder: str, updates: int) -> dict[str, Any]:
        return {f"{folder}/{mode}": {**modes[mode], "optimization.max_update": updates} for mode in ("fp32", *LOW)}

    ran = emulator.each(tmp_path, runs("whole", 10) | runs("parts", 5), *flags)
    emulator.each(tmp_path, runs("parts", 10), *flags)
    expected = [loss for _, loss in ran["whole/fp32"].losses]
    assert expected[-1] < expected[0]
    for mode in LOW:
        assert [loss for _, loss in ran[f"whole/{mode}"].losses] == pytest.approx(expected, rel=0.01), mode
        same_end(tmp_path / "whole" / mode, tmp_path / "parts" / mode)


@pytest.mark.slow
def test_every_other_precision_goes_on(emulator: Any, modes: Any, pairs: Any, tmp_path: Path) -> None:
    flags = pairs["the fused pair"]
    first = emulator.each(tmp_path, modes, *flags, "--max-update", 10)
    changes = {
        f"{before} to {after}": {"checkpoint.restore_file": str(tmp_path / before / "checkpoint_last.pt"), **settings}
        for before in modes
        for after, settings in modes.items()
        if after != before
    }
    # With a learning rate of 0 the update leaves the parameters as they were loaded.
    then = emulator.each(tmp_path, changes, *flags, "--max-update", 11, "--lr", 0)
    for name, run in then.items():
        before, after = name.split(" to ")
        assert [update for update, _ in run.losses] == [11], name
        assert run.losses[0][1] == pytest.approx(first[before].losses[-1][1], rel=0.1), name
        saved, resumed = first[before].state(), run.state()
        lossless = not after.startswith("memory")  # which has no float32 copy
        dtype = torch.float32 if lossless else torch.float16 if after.endswith("fp16") else torch.bfloat16
        for key, value in saved["model"].items():
            expected = value if key.endswith("lr_scale") else value.to(dtype).float()
            assert torch.equal(resumed["model"][key], expected), (name, key)
        states = resumed["last_optimizer_state"]["state"].values()
        assert {state["step"] for state in states} == {11}, name


def test_saved_parameters_are_the_32_bit_ones(emulator: Any, modes: Any, pairs: Any, tmp_path: Path) -> None:
    low = {"fp16": torch.float16, "bf16": torch.bfloat16}
    runs = emulator.each(tmp_path, {mode: modes[mode] for mode in low}, *pairs["the fused pair"], "--max-update", 3)
    for mode, dtype in low.items():
        state = runs[mode].state()["model"]
        learnt = [value for name, value in state.items() if value.dim() and not name.endswith("lr_scale")]
        assert {value.dtype for value in learnt} == {torch.float32}
        assert any(not torch.equal(value, value.to(dtype).float()) for value in learnt)


def test_a_checkpoint_of_fairseqs_own_loads(emulator: Any, modes: Any, pairs: Any, tmp_path: Path) -> None:
    """One without master weights and counters, as before this project saved them."""
    runs, flags = {mode: modes[mode] for mode in SCALED[:2]}, pairs["the fused pair"]
    for run in emulator.each(tmp_path, runs, *flags, "--max-update", 3).values():
        path, state = run.save_dir / "checkpoint_last.pt", run.state()
        state["model"] = {name: value.half().float() for name, value in state["model"].items()}
        del state["last_optimizer_state"]["loss_scaler"]
        torch.save(state, path)
        path.with_name("checkpoint_last.pt.sha256").unlink()
    for run in emulator.each(tmp_path, runs, *flags, "--max-update", 5).values():
        assert [update for update, _ in run.losses] == [4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--fp16", "--amp"])
def test_two_ranks_save_on_a_signal_and_resume(
    flag: str, emulator: Any, pairs: Any, srun: Any, tmp_path: Path, same_end: Any
) -> None:
    launcher, environment = srun
    flags = (*pairs["the fused pair"], flag, "--distributed-world-size", 2, "--find-unused-parameters")
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


@pytest.mark.slow
def test_a_rank_that_hangs_is_ended_within_the_heartbeat_timeout(
    emulator: Any, pairs: Any, srun: Any, tmp_path: Path
) -> None:
    """Its log has the stacks of its threads. If our handlers took its signal, it would end with 3."""
    launcher, environment = srun
    flags = (*pairs["the fused pair"], "--distributed-world-size", 2, "--heartbeat-timeout", 4, "--max-update", 12)
    hang = [{"gradients": {3: "hang"}}]
    run = emulator.run(tmp_path, *flags, runs=hang, launcher=launcher, **environment, status=None)
    assert run.status == signal.SIGABRT, run.output[-3000:]
    assert "Killing job for not making progress in 4 seconds" in run.output
    stacks = "".join(log.read_text() for log in tmp_path.glob("run/logs/rank-*.log"))
    assert "Fatal Python error: Aborted" in stacks and "in counted" in stacks
