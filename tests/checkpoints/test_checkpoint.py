"""Reading and writing fairseq's checkpoints."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from linformer_fairseq.checkpoints.checkpoint import (
    Checkpoint,
    build,
    digest,
    encoder_config,
    read,
    write,
)
from linformer_fairseq.checkpoints.extend import extend
from linformer_fairseq.errors import UsageError
from linformer_fairseq.models import LinformerRobertaModel

USER_DIR = Path(__file__).parents[2] / "linformer_fairseq"
MakeCheckpoint = Callable[..., Checkpoint]
RunFairseq = Callable[..., CompletedProcess[str]]


def test_what_is_written_is_read(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(heads={"topic": 3})
    checkpoint.notes.append({"conversion": "none"})
    checkpoint.scores["accuracy"] = 81.5
    write(checkpoint, tmp_path / "a.pt")
    again = read(tmp_path / "a.pt")
    assert again.state.keys() == checkpoint.state.keys() and digest(again.state) == digest(checkpoint.state)
    assert (again.updates, again.notes, again.heads) == (7, [{"conversion": "none"}], ["topic"])
    assert again.scores == {"accuracy": 81.5}
    assert again.model["projected_length"] == "8" and again.task["_name"] == "masked_lm"
    assert encoder_config(again) == encoder_config(checkpoint)


@pytest.mark.slow
def test_fairseq_trains_on_from_a_written_checkpoint_which_reads_its_own(
    make_checkpoint: MakeCheckpoint, tiny_data: Path, tmp_path: Path, run_fairseq: RunFairseq
) -> None:
    shape = ["--max-positions", "32", "--projected-length", "8", "--encoder-layers", "2", "--encoder-embed-dim", "16"]
    shape += ["--encoder-ffn-embed-dim", "32", "--encoder-attention-heads", "2"]
    flags = ["--user-dir", USER_DIR, "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "linformer_roberta"]
    flags += ["--tokens-per-sample", "32", "--batch-size", "4", "--optimizer", "adam", "--lr", "0.01", "--cpu", *shape]
    run_fairseq("fairseq-train", tiny_data, *flags, "--max-update", "2", "--save-dir", tmp_path / "one")
    trained = read(tmp_path / "one/checkpoint_last.pt")
    assert 2 < trained.scores["validation perplexity"] < 200
    assert trained.updates == 2 and trained.task["data"] == str(tiny_data)
    write(trained, tmp_path / "copy.pt")
    for flag, folder in (("--restore-file", "two"), ("--finetune-from-model", "three")):
        more = [flag, tmp_path / "copy.pt", "--save-dir", tmp_path / folder, "--max-update", "1"]
        done = run_fairseq("fairseq-train", tiny_data, *flags, *more)
        assert "Loaded checkpoint" in done.stdout
        assert read(tmp_path / folder / "checkpoint_last.pt").updates == 1
    hub = LinformerRobertaModel.from_pretrained(str(tmp_path), "copy.pt", str(tiny_data), bpe=None)
    assert digest(hub.model.state_dict()) == digest(trained.state)


def test_the_model_of_a_checkpoint_has_its_parameters(
    make_checkpoint: MakeCheckpoint, tokens: torch.Tensor, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(heads={"topic": 3})
    model = build(checkpoint)
    assert digest(model.state_dict()) == digest(checkpoint.state) and not model.training
    assert model(tokens, features_only=True, classification_head_name="topic")[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.state.pop("encoder.lm_head.bias"), "do not fit its settings.*lm_head.bias"),
        (lambda c: c.model.update(projected_length="4"), "do not fit its settings.*E.weight"),
        (lambda c: c.model.update(projected_length="64"), "do not fit together.*--projected-length"),
        (lambda c: c.model.update(_name="bart_base"), "--arch bart_base is not one of this project's models"),
    ],
)
def test_parameters_and_settings_that_do_not_fit_are_refused(
    make_checkpoint: MakeCheckpoint, change: Callable[[Checkpoint], Any], message: str
) -> None:
    checkpoint = make_checkpoint()
    change(checkpoint)
    with pytest.raises(UsageError, match=message):
        build(checkpoint)


class Harm:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "not a whole checkpoint"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and then nothing"), "not a whole checkpoint"),
        (lambda path: torch.save({"weight": torch.ones(2)}, path), "no `model`"),
        (lambda path: torch.save({"model": {"weight": torch.ones(2)}}, path), "no settings of its model"),
        (lambda path: torch.save({"model": Harm()}, path), "not loaded, because it asks for"),
        (lambda path: path.write_bytes(pickle.dumps(Harm())), "not a whole checkpoint"),
    ],
)
def test_other_files_are_refused_in_a_sentence(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path / "a.pt")
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "a.pt")


def test_a_truncated_checkpoint_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(make_checkpoint(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UsageError, match="not a whole checkpoint"):
        read(path)


def test_nothing_is_overwritten_or_left_half_written(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(make_checkpoint(seed=1), path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="a.pt exists; choose another target, or replace it with --force"):
        write(make_checkpoint(seed=2), path)
    with pytest.raises(TypeError):
        write(Checkpoint({}, {}, notes=[(i for i in "abc")]), path, force=True)  # type: ignore[list-item]
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    write(make_checkpoint(seed=2), path, force=True)
    assert path.read_bytes() != before


@pytest.mark.parametrize("settings", [{}, {"projection": "conv", "projection_sharing": "headwise"}])
def test_every_parameter_is_missed(make_checkpoint: MakeCheckpoint, settings: dict[str, str]) -> None:
    whole = make_checkpoint(heads={"topic": 3}, **settings)
    for key in whole.state:
        if key.endswith("lr_scale"):  # without one, the matrices are as they stand
            continue
        part = Checkpoint({k: v for k, v in whole.state.items() if k != key}, whole.model)
        for use in (build, lambda c: extend(c, 64)):
            with pytest.raises(UsageError, match="do not fit its settings|not one of this project's models"):
                use(part)


def test_a_head_with_spectral_norm_is_built(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint(heads={"topic": 3}, spectral_norm_classification_head=True)
    assert "classification_heads.topic.out_proj.weight_orig" in checkpoint.state
    assert digest(build(checkpoint).state_dict()) == digest(checkpoint.state)


def test_of_several_shards_the_first_has_the_dictionary() -> None:
    assert Checkpoint({}, {}, {"data": "run/shard00:run/shard01"}).data == Path("run/shard00")


@pytest.mark.parametrize("untied", [True, False])
def test_every_tensor_comes_back_from_safetensors(
    make_checkpoint: MakeCheckpoint, untied: bool, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(heads={"topic": 3}, untie_weights_roberta=untied)
    checkpoint.scores["accuracy"] = 81.5
    path = tmp_path / "a.safetensors"
    write(checkpoint, path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    again = read(path)
    assert again.state.keys() == checkpoint.state.keys() and digest(again.state) == digest(checkpoint.state)
    assert (again.model, again.task, again.updates) == (checkpoint.model, checkpoint.task, 7)
    assert again.scores == {"accuracy": 81.5}
    build(again)
    with pytest.raises(UsageError, match="exists"):
        write(checkpoint, path)


def test_other_safetensors_are_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(UsageError, match="holds no settings of a checkpoint"):
        read(path)
    write(make_checkpoint(), path, force=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        read(path)
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("setting", ["encoder_layers", "max_positions", "encoder_embed_dim"])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_model_larger_than_its_parameters_is_refused_before_it_is_built(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, setting: str, name: str
) -> None:
    checkpoint = make_checkpoint()
    write(checkpoint.converted(model=checkpoint.model | {setting: 10**8}), tmp_path / name)
    with pytest.raises(UsageError, match=f"do not fit its settings .*{setting} 100000000"):
        read(tmp_path / name)
