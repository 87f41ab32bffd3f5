"""A training starts from a whole checkpoint or says why not, and never goes past its end."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.training import files, resuming

SAVES = ("--save-interval-updates", 4)


@pytest.fixture(scope="module")
def trained(finish: Any, train_command: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight updates, saved after four and eight."""
    folder: Path = tmp_path_factory.mktemp("trained") / "run"
    finish(train_command(folder, *SAVES, "--max-update", 8))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, as another file system would have it: no hard links."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_goes_on_from_the_newest_whole_one(run: Path, finish: Any, train_command: Any, parse_losses: Any) -> None:
    damage(run / "checkpoint_last.pt")
    damage(run / "checkpoint_1_8.pt")
    log = finish(train_command(run, *SAVES, "--max-update", 10))
    last, other = run / "checkpoint_last.pt", run / "checkpoint_1_4.pt"
    assert f"{last} is damaged (it cannot be read: {last} is not a whole checkpoint" in log
    assert f"resuming from the newest whole one, {other}" in log
    assert parse_losses(log)[0][0] == 5
    assert log.count("is damaged") == 1


@pytest.mark.slow
def test_a_later_epoch_goes_on_to_the_bit_and_masks_what_no_worker_decides(
    finish: Any, train_command: Any, parse_losses: Any, same_end: Any, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    log = finish(train_command(whole, "--max-update", 20, "--num-workers", 1, "--save-interval-updates", 18))
    cut.mkdir()
    shutil.copy2(whole / "checkpoint_2_18.pt", cut / "checkpoint_last.pt")
    finish(train_command(cut, "--max-update", 20, "--num-workers", 1))
    same_end(whole, cut)
    alone = finish(train_command(tmp_path / "alone", "--max-update", 20, "--num-workers", 0))
    assert parse_losses(alone) == parse_losses(log)


def test_what_has_ended_mends_its_last_one(run: Path, finish: Any, train_command: Any) -> None:
    damage(run / "checkpoint_last.pt")
    assert "this run has ended" in finish(train_command(run, "--max-update", 8))
    assert files.damage(run / "checkpoint_last.pt") is None


def test_an_earlier_one_put_in_the_place_of_the_last_is_taken(
    run: Path, finish: Any, train_command: Any, parse_losses: Any
) -> None:
    shutil.copy2(run / "checkpoint_1_4.pt", run / "checkpoint_last.pt")
    log = finish(train_command(run, *SAVES, "--max-update", 5))
    assert parse_losses(log)[0][0] == 5 and "damaged" not in log


def test_one_bad_byte_does_not_end_a_run_that_keeps_one_checkpoint(
    finish: Any, train_command: Any, tmp_path: Path, parse_losses: Any
) -> None:
    flags = ("--save-interval-updates", 2, "--keep-interval-updates", 1)
    finish(train_command(tmp_path / "run", *flags, "--max-update", 4))
    damage(tmp_path / "run/checkpoint_last.pt")
    log = finish(train_command(tmp_path / "run", *flags, "--max-update", 5))
    assert parse_losses(log)[0][0] == 5


def test_a_lock_that_was_replaced_ends_the_run_before_it_overwrites_anything(
    start: Any, train_command: Any, tmp_path: Path
) -> None:
    process = start(train_command(tmp_path, "--save-interval-updates", 2, "--max-update", 1000000))
    for _ in range(2400):
        if list(tmp_path.glob("checkpoint*.pt")):
            break
        time.sleep(0.05)
    (tmp_path / "mine").touch()
    os.replace(tmp_path / "mine", tmp_path / ".lock")
    log, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in log, log[-3000:]
    assert log.strip().splitlines()[-1].startswith(f"error: {tmp_path / '.lock'} was replaced")


@pytest.mark.slow
def test_other_data_under_the_same_name_is_refused(
    run: Path, finish: Any, train_command: Any, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    command = [tmp_path / "data" if word == tiny_data else word for word in train_command(run, "--max-update", 10)]
    tokens = tmp_path / "data/train.bin"
    content = tokens.read_bytes()
    tokens.write_bytes(content[:-100])
    log = finish(command, status=1)
    assert "do not belong together" in log.strip().splitlines()[-1] and "Traceback" not in log
    middle = len(content) // 2
    tokens.write_bytes(
        content[:middle] + content[middle + 2 : middle + 4] + content[middle : middle + 2] + content[middle + 4 :]
    )
    log = finish([*command, "--batch-size", 8, "--finetune-from-model", run / "checkpoint_1_4.pt"], status=1)
    assert "(changed: train.bin, --batch-size 8 instead of 16)" in log.strip().splitlines()[-1]
    assert "Traceback" not in log
    assert "10 updates" in finish([*command, "--reset-dataloader"])
    log = finish([*command, "--max-update", 11])  # the checkpoint is one of the new data
    assert "11 updates" in log


def test_a_position_beyond_the_end_is_one_sentence_though_the_checkpoint_tells_nothing(
    run: Path, finish: Any, train_command: Any
) -> None:
    state = torch.load(run / "checkpoint_last.pt", weights_only=False)
    del state["extra_state"]["linformer_fairseq"]  # as fairseq saves
    torch.save(state, run / "checkpoint_last.pt")
    log = finish(train_command(run, "--max-update", 10, "--batch-size", 400), status=1)
    assert "the saved position is beyond the last batch" in log.strip().splitlines()[-1] and "Traceback" not in log


@pytest.mark.slow
def test_without_a_whole_one_it_says_so(run: Path, finish: Any, train_command: Any, srun: Any) -> None:
    """Once, though both ranks end."""
    for path in run.glob("*.pt"):
        os.truncate(path, 1000)
    launcher, environment = srun
    log = finish(train_command(run, "--max-update", 10, launcher=launcher), status=1, **environment)
    (error,) = (line for line in log.splitlines() if line.startswith("error: "))
    assert error.endswith(f"and {run} has no other whole one: delete it to start over")
    assert "Traceback" not in log


def test_a_damaged_file_that_was_named_is_refused(run: Path, finish: Any, train_command: Any) -> None:
    name = run / "checkpoint_1_4.pt"
    damage(name)
    log = finish(train_command(run, "--restore-file", name, "--max-update", 10), status=1)
    refusal = f"error: --restore-file {name} is damaged (it cannot be read: {name} is not a whole checkpoint"
    assert log.strip().splitlines()[-1].startswith(refusal)
    assert "Traceback" not in log


def test_a_missing_file_that_was_named_is_refused(tmp_path: Path) -> None:
    """fairseq would start anew."""
    cfg = OmegaConf.create({"save_dir": f"{tmp_path}", "no_save": True, "restore_file": f"{tmp_path}/best.pt"})
    with pytest.raises(UsageError, match=r"--restore-file .*/best.pt: no such file"):
        resuming.checkpoint_instead(cfg, "")


def test_what_has_ended_does_nothing(run: Path, finish: Any, train_command: Any) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in run.glob("*.pt*")}
    (run / ".checkpoint_last.pt.12345.partial").write_bytes(b"of a killed write")
    log = finish(train_command(run, "--max-update", 8))
    assert f"{run}: this run has ended (8 updates, --max-update 8), so there is nothing to do" in log
    assert {path.name: path.stat().st_mtime_ns for path in run.glob("*.pt*")} == before
    assert not list(run.glob(".*.partial"))


def test_a_last_one_that_is_there_is_renewed_in_spite_of_the_flag(run: Path, finish: Any, train_command: Any) -> None:
    """A stop writes it then too; the run would go on from that one again and again."""
    command = train_command(run, "--no-last-checkpoints", "--max-update", 9)
    finish(command)
    assert "this run has ended (9 updates" in finish(command)


@pytest.mark.parametrize(
    ("limits", "ended"),
    [
        ({"max_update": 0}, None),
        ({"max_update": 9}, None),
        ({"max_update": 7}, "8 updates, --max-update 7"),
        ({"max_epoch": 3}, None),
        ({"max_epoch": 2}, "--max-epoch 2"),
        ({"stop_time_hours": 2}, None),
        ({"stop_time_hours": 0.5}, "--stop-time-hours 0.5"),
        ({"patience": 4}, None),
        ({"patience": 3}, "3 validations without a better one, --patience 3"),
    ],
)
def test_limits(limits: dict[str, float], ended: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 8 updates, one hour, two epochs, and three validations without a better one."""
    monkeypatch.setattr(resuming, "patience", lambda: {"best": 5.0, "num_runs": 3})
    optimization = SimpleNamespace(**{"max_update": 0, "max_epoch": 0, "stop_time_hours": 0, **limits})
    trainer = SimpleNamespace(
        cfg=SimpleNamespace(optimization=optimization, checkpoint=SimpleNamespace(patience=limits.get("patience", -1))),
        get_num_updates=lambda: 8,
        cumulative_training_time=lambda: 3600,
    )
    assert resuming.why_ended(trainer, SimpleNamespace(next_epoch_idx=3)) == ended


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes(
    before: int, after: int, finish: Any, train_command: Any, parse_losses: Any, srun: Any, tmp_path: Path
) -> None:
    """Batches of the epoch that were done do not come again; the rest of the state is the one that was saved."""

    def train(processes: int, *flags: object) -> str:
        launcher, environment = srun if processes == 2 else ((), {})
        return str(finish(train_command(tmp_path, *flags, launcher=launcher), **environment))

    train(before, "--max-update", 6, "--save-interval-updates", 2)
    saved = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    log = train(after, "--max-update", 7, "--lr", 0)
    assert f"Resuming with {after} processes instead of {before}" in log
    assert f"{6 * before} batches of the epoch are done, 0 of them come again" in log
    assert parse_losses(log)[0][0] == 7
    resumed = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    # With a learning rate of 0 the update leaves the parameters as they were loaded.
    assert all(torch.equal(value, resumed["model"][name]) for name, value in saved["model"].items())
    assert resumed["last_optimizer_state"]["state"][0]["step"] == 7
    position = resumed["extra_state"]["train_iterator"]["iterations_in_epoch"]
    assert position == 6 * before // after + 1


def loaded_by(criterion: str, optimizer: str, saved: tuple[str, str]) -> dict[str, str]:
    """The names in a checkpoint with those `saved`, once a trainer with these of its own has loaded it."""
    own = type(criterion, (), {})()
    history = [{}, {"criterion_name": saved[0], "optimizer_name": saved[1]}]
    optimizer_of_trainer = type(optimizer, (), {})()
    trainer = SimpleNamespace(get_criterion=lambda: own, optimizer=optimizer_of_trainer, _optim_history=history)
    resuming.adopt_names(trainer)
    return history[-1]


@pytest.mark.parametrize(
    ("saved", "criterion", "adopted"),
    [
        (("MaskedLmLoss", "FairseqAdam"), "FusedMaskedLmLoss", ("FusedMaskedLmLoss", "FusedAdamW")),
        (("FusedMaskedLmLoss", "FusedAdamW"), "FusedMaskedLmLoss", ("FusedMaskedLmLoss", "FusedAdamW")),
        (("FusedMaskedLmLoss", "FP16Optimizer"), "MaskedLmLoss", ("MaskedLmLoss", "FusedAdamW")),
        (("CrossEntropyCriterion", "FairseqSGD"), "MaskedLmLoss", ("CrossEntropyCriterion", "FairseqSGD")),
    ],
)
def test_equivalent_classes_adopt_each_others_state(
    saved: tuple[str, str], criterion: str, adopted: tuple[str, str]
) -> None:
    names = loaded_by(criterion, "FusedAdamW", saved)
    assert (names["criterion_name"], names["optimizer_name"]) == adopted


def test_resumes_with_the_fused_criterion_and_optimizer_and_back(
    run: Path, finish: Any, train_command: Any, parse_losses: Any
) -> None:
    fused = ("--criterion", "fused_masked_lm", "--optimizer", "fused_adamw")
    log = finish(train_command(run, *fused, "--max-update", 10))
    assert [update for update, _ in parse_losses(log)] == [9, 10]
    last = run / "checkpoint_last.pt"
    state = torch.load(last, weights_only=False)
    state["optimizer_history"][-1] |= {"criterion_name": "FusedMaskedLmLoss", "optimizer_name": "FusedAdamW"}
    torch.save(state, last)
    log = finish(train_command(run, "--max-update", 12))
    assert [update for update, _ in parse_losses(log)] == [11, 12]
    assert "resuming with the criterion MaskedLmLoss instead of FusedMaskedLmLoss: their states are the same" in log
    assert "resuming with the optimizer FairseqAdam instead of FusedAdamW: their states are the same" in log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "names"),
    [
        (("--criterion", "cross_entropy"), "the criterion MaskedLmLoss, and this run has CrossEntropyCriterion"),
        (("--optimizer", "sgd"), "the optimizer FairseqAdam, and this run has SGD"),
    ],
)
def test_another_criterion_or_optimizer_is_refused_in_one_sentence(
    flag: tuple[str, str], names: str, run: Path, finish: Any, train_command: Any, srun: Any
) -> None:
    """Once, though both ranks end."""
    launcher, environment = srun
    log = finish(train_command(run, *flag, "--max-update", 10, launcher=launcher), status=1, **environment)
    (error,) = (line for line in log.splitlines() if line.startswith("error: "))
    assert error.startswith(
        f"error: {run / 'checkpoint_last.pt'} was saved with {names}: choose the earlier {flag[0]} "
    )
    assert "--reset-optimizer" in error and "Traceback" not in log


@pytest.mark.slow
def test_patience_goes_on_counting(finish: Any, train_command: Any, tmp_path: Path) -> None:
    """With --lr 0 no validation after the first is better, so a run of --patience 3 has four of them."""
    flags = ["--patience", 3, "--lr", 0, "--validate-interval-updates", 1, "--save-interval-updates", 1]

    def train(last: int) -> str:
        command = train_command(tmp_path, *flags, "--keep-interval-updates", 1, "--max-update", last)
        return str(finish([word for word in command if word != "--disable-validation"]))

    train(2)
    assert "early stop" in train(9)
    saved = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    assert saved["optimizer_history"][-1]["num_updates"] == 4
    assert saved["extra_state"]["linformer_fairseq"]["patience"]["num_runs"] == 3
    log = train(9)
    assert "this run has ended (3 validations without a better one, --patience 3)" in log
    assert '"num_updates"' not in log


@pytest.mark.parametrize("reset", [(), ("--reset-optimizer", "--reset-dataloader")])
def test_an_own_checkpoint_wins_over_a_start_from_elsewhere(
    run: Path, finish: Any, train_command: Any, parse_losses: Any, tmp_path: Path, reset: tuple[str, ...]
) -> None:
    given = ["--restore-file", run / "checkpoint_last.pt", *reset, "--save-interval-updates", 2]
    begin = 0 if reset else 8
    first = finish(train_command(tmp_path / "new", *given, "--max-update", begin + 2))
    assert "resumes from its own" not in first
    log = finish(train_command(tmp_path / "new", *given, "--max-update", begin + 3))
    assert [update for update, _ in parse_losses(log)] == [begin + 3]
    assert log.count("resumes from its own") == 1 and "--finetune-from-model" in log


def test_only_a_way_back_within_a_run_must_leave_the_flag_out(tmp_path: Path) -> None:
    for file, back in (("checkpoint_last.pt", False), (tmp_path / "checkpoint_1_2.pt", True), ("/other/x.pt", False)):
        assert resuming.goes_back(SimpleNamespace(restore_file=str(file), save_dir=str(tmp_path))) == back


@pytest.mark.parametrize("other", [torch.nn.Linear(3, 2), torch.nn.Linear(2, 2, bias=False)])
def test_a_checkpoint_of_another_length_or_k_is_refused_in_a_sentence(other: torch.nn.Module) -> None:
    with pytest.raises(
        UsageError, match=r"^a.pt: its model is another .* \(see (weight|bias)\).*`linformer convert extend`$"
    ):
        try:
            torch.nn.Linear(2, 2).load_state_dict(other.state_dict())
        except RuntimeError:
            try:
                raise Exception("Cannot load model parameters from checkpoint a.pt")  # as fairseq does
            except Exception as error:
                resuming.explain(error, None, "a.pt")
    resuming.explain(Exception("another reason"), None, "a.pt")
