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


@pytest.mark.slow
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


def code(trace: Path) -> str:
    """An expression that leaves a file behind when it is evaluated."""
    return f"__import__('pathlib').Path({str(trace)!r}).touch() or {{}}"


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("model", {"_name": "fconv", "encoder_layers": code}),
        ("model", {"_name": None, "arch": "fconv_self_att", "pretrained": code}),
        ("model", {"xformers_att_config": code}),
        ("model", {"xformers_att_config": lambda trace: "${task.data}"}),
        ("criterion", {"_name": "ctc", "wer_args": code}),
        ("task", {"_name": "translation"}),
        ("task", {"task": "audio_pretraining", "post_save_script": lambda trace: f"touch {trace}"}),
        ("optimizer", {"_name": "adam", "adam_betas": code}),
    ],
)
def test_settings_of_a_file_run_no_code(trained, tiny_data, tmp_path, section, settings):
    trace = tmp_path / "trace"
    settings = {key: value(trace) if callable(value) else value for key, value in settings.items()}
    content = trained.checkpoint()
    before = content["cfg"][section]
    content["cfg"][section] = {**(vars(before) if isinstance(before, Namespace) else before), **settings}
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(UsageError, match="was not loaded, because"):
        _, cfg, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(tmp_path / "evil.pt")], arg_overrides={"data": str(tiny_data)}
        )
        task.build_criterion(cfg.criterion)
    assert not trace.exists()


def test_old_settings_run_no_code(tiny_data, tmp_path):
    trace = tmp_path / "trace"
    args = Namespace(arch="fconv", task="masked_lm", criterion="masked_lm", data=str(tiny_data), lr=[0.1])
    args.encoder_layers = code(trace)
    old = {"args": args, "model": {}, "optimizer_history": [], "extra_state": {}}
    old["optimizer_history"] = [{"lr_scheduler_state": {}, "num_updates": 7}]
    torch.save(old, tmp_path / "old.pt")
    with pytest.raises(UsageError, match="asks for the model fconv"):
        checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "old.pt")])
    assert not trace.exists()


def test_validation_of_a_file_that_chooses_a_criterion_ends_in_one_sentence(run_fairseq, trained, tiny_data, tmp_path):
    trace, content = tmp_path / "trace", trained.checkpoint()
    content["cfg"]["criterion"] = {"_name": "ctc", "wer_args": code(trace)}
    torch.save(content, tmp_path / "evil.pt")
    flags = ("--task", "masked_lm", "--batch-size", 16, "--user-dir", USER_DIR)
    stopped = run_fairseq("fairseq-validate", tiny_data, "--path", tmp_path / "evil.pt", *flags, check=False)
    assert stopped.returncode == 1 and not trace.exists() and "Traceback" not in stopped.stdout
    assert stopped.stdout.strip().splitlines()[-1].startswith(f"error: {tmp_path / 'evil.pt'} was not loaded, because")


def test_a_user_dir_named_in_a_file_is_not_imported(trained, tiny_data, tmp_path):
    folder = tmp_path / "foreign_user_dir"
    folder.mkdir()
    (folder / "__init__.py").write_text(code(tmp_path / "trace"))
    content = trained.checkpoint()
    content["cfg"]["common"]["user_dir"] = str(folder)
    torch.save(content, tmp_path / "file.pt")
    checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "file.pt")], {"data": str(tiny_data)})
    assert not (tmp_path / "trace").exists()


def test_another_kind_of_model_still_resumes(trained, tmp_path):
    """Where the command line says what is built, the file may be of any model of fairseq."""
    content = trained.checkpoint()
    content["cfg"]["model"]._name = "transformer_lm"
    torch.save(content, tmp_path / "other.pt")
    assert checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "other.pt"))["cfg"].model._name == "transformer_lm"


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a ${oc.decode:${oc.env:HOME}}"])
def test_environment_variables_named_in_a_file_are_not_read(trained, tmp_path, value):
    content = trained.checkpoint()
    content["cfg"]["task"]["data"] = value
    torch.save(content, tmp_path / "curious.pt")
    message = refused(tmp_path / "curious.pt")
    assert "data" in message and os.environ["HOME"] not in message.replace(str(tmp_path), "")


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_names_a_part_with_a_flipped_bit(trained, tmp_path, place):
    whole = bytearray((trained.save_dir / "checkpoint_last.pt").read_bytes())
    whole[int(len(whole) * place)] ^= 1
    (tmp_path / "flipped.pt").write_bytes(whole)
    assert "is not a whole checkpoint" in refused(tmp_path / "flipped.pt")


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
