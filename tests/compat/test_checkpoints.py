"""fairseq's own checkpoints load everywhere; anything else is refused in one sentence."""

import io
import os
import pickle
import shutil
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.logging import meters
from omegaconf import OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.paths import USER_DIR


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained"), "--max-update", 2)


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as refusal:
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    message = str(refusal.value)
    assert "\n" not in message and str(path) in message
    return message


def test_training_resumes(train, trained, tmp_path):
    shutil.copytree(trained.save_dir, tmp_path / "run")
    resumed = train(tmp_path / "run", "--max-update", 4)
    assert [update for update, _ in resumed.losses] == [3, 4]


def test_fairseq_validate_gives_the_loss_of_the_training(run_fairseq, trained, tiny_data):
    validated = run_fairseq(
        *("fairseq-validate", tiny_data, "--path", trained.save_dir / "checkpoint_last.pt", "--task", "masked_lm"),
        *("--batch-size", 16, "--required-batch-size-multiple", 1, "--log-format", "json"),
        *("--user-dir", USER_DIR),
    )
    assert f'"valid_loss": "{trained.checkpoint()["extra_state"]["val_loss"]}"' in validated.stdout


def test_hub_loads(trained, tiny_data):
    from fairseq.models.roberta import RobertaModel

    hub = RobertaModel.from_pretrained(
        str(trained.save_dir), "checkpoint_last.pt", data_name_or_path=str(tiny_data), bpe="characters"
    )
    assert hub.extract_features(torch.tensor([[0, 5, 6, 2]])).shape == (1, 4, 32)


def test_malicious_file_ends_a_training_in_one_sentence(train, tmp_path):
    evil, trace = tmp_path / "evil.pt", tmp_path / "trace"
    torch.save({"args": None, "cfg": {}, "model": Malicious(trace)}, evil)
    stopped = train(tmp_path / "run", "--restore-file", evil, "--max-update", 1, check=False)
    assert stopped.returncode == 1
    assert not trace.exists()
    last = stopped.output.strip().splitlines()[-1]
    assert last.startswith(f"error: {evil} was not loaded, because it asks for posix.system")
    assert "Traceback" not in stopped.output and not stopped.losses


def test_malicious_file_ends_all_processes(train, tmp_path):
    evil, trace = tmp_path / "evil.pt", tmp_path / "trace"
    torch.save({"args": None, "cfg": {}, "model": Malicious(trace)}, evil)
    flags = ("--restore-file", evil, "--max-update", 1, "--distributed-world-size", 2)
    stopped = train(tmp_path / "run", *flags, check=False)
    assert stopped.returncode == 1
    assert not trace.exists()
    assert stopped.output.count("was not loaded, because it asks for posix.system") == 1
    assert "Traceback" not in stopped.output


@pytest.mark.parametrize("legacy_format", [False, True])
def test_no_environment_variable_turns_safety_off(monkeypatch, tmp_path, legacy_format):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    evil, trace = tmp_path / "evil.pt", tmp_path / "trace"
    torch.save({"model": Malicious(trace)}, evil, _use_new_zipfile_serialization=not legacy_format)
    assert "posix.system" in refused(evil)
    assert not trace.exists()


@pytest.mark.parametrize("foreign", [eval, Path("x"), type], ids=["eval", "Path", "type"])
def test_names_what_fairseq_never_writes(tmp_path, foreign):
    torch.save({"model": foreign}, tmp_path / "foreign.pt")
    message = refused(tmp_path / "foreign.pt")
    assert foreign.__class__.__name__ in message or foreign.__name__ in message
    assert "weights_only=False" in message


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_names_a_truncated_file(trained, tmp_path, share):
    whole = (trained.save_dir / "checkpoint_last.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: int(len(whole) * share)])
    assert "is not a whole checkpoint" in refused(tmp_path / "half.pt")


def test_names_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "notes.pt").write_text("hello world\n")
    assert "is not a whole checkpoint" in refused(tmp_path / "notes.pt")


def test_reads_a_checkpoint_of_2019(tmp_path):
    """Its configuration is an argparse.Namespace, its averages are objects, its format is older than zip files."""
    meter = meters.AverageMeter()
    meter.update(torch.tensor(2.5))
    old = {
        "args": Namespace(arch="roberta_base", task="masked_lm", criterion="masked_lm", lr=[0.1], data="x"),
        "model": OrderedDict(weight=torch.ones(2)),
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 7}],
        "extra_state": {"train_meters": {"loss": meter}, "train_iterator": {"epoch": 1}, "val_loss": np.float64(3.5)},
    }
    buffer = io.BytesIO()
    torch.save(old, buffer, _use_new_zipfile_serialization=False)
    # The module names of the time.
    data = buffer.getvalue().replace(b"cfairseq.logging.meters\n", b"cfairseq.meters\n")
    data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"fairseq.meters" in data and b"numpy.core" in data
    (tmp_path / "old.pt").write_bytes(data)
    state = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "old.pt"))
    assert state["cfg"].task._name == "masked_lm"
    assert state["extra_state"]["train_meters"]["loss"].avg == 2.5
    assert state["extra_state"]["val_loss"] == 3.5


@pytest.mark.parametrize(
    "value",
    [
        np.float64(1.5),
        np.float32(0.5),
        np.int64(3),
        np.bool_(True),
        OmegaConf.create({"a": [1, {"b": 2.5}], "c": None}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_reads_what_fairseq_writes(tmp_path, value):
    torch.save(value, tmp_path / "value.pt")
    with open(tmp_path / "value.pt", "rb") as file:
        assert checkpoint_utils.torch.load(file) == value


def test_an_object_array_cannot_smuggle_anything_in(tmp_path):
    torch.save(np.array([Malicious(tmp_path / "trace")], dtype=object), tmp_path / "array.pt")
    refused(tmp_path / "array.pt")
    assert not (tmp_path / "trace").exists()


def test_memory_errors_are_not_taken_for_damage(tmp_path, monkeypatch):
    (tmp_path / "big.pt").write_bytes(b"")

    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", exhausted)
    with pytest.raises(MemoryError):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "big.pt"))


def test_refusal_is_a_value_error_that_pickles():
    """A ValueError, so that programs can catch it without knowing this package; pickled, it crosses processes."""
    error = pickle.loads(pickle.dumps(UsageError("why")))
    assert isinstance(error, ValueError) and str(error) == "why"
