"""The command line of conversions."""

from __future__ import annotations

import json
from pathlib import Path

import convert
import pytest
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, complete_settings, digest, read, symbols, write
from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file with a small untrained model of 32 positions."""
    model = {"_name": "linformer_roberta_tiny", "max_positions": 32, "projected_length": "8", "encoder_embed_dim": 16}
    complete = complete_settings(model)
    torch.manual_seed(0)
    built = LinformerRobertaModel(complete, LinformerRobertaEncoder(complete, symbols(40)))
    path = tmp_path / "source.pt"
    write(Checkpoint(built.state_dict(), model, {"_name": "masked_lm", "data": "bin"}, 7), path)
    return path


def test_inspect_says_what_a_checkpoint_is(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main(["inspect", str(checkpoint), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["projected length k"] == 8 and about["sharing"] == "layerwise" and about["updates"] == 7
    state = read(checkpoint).state
    # The output matrix is the embedding, and counts once; lr_scale is no parameter.
    counted = sum(v.numel() for k, v in state.items() if not k.endswith(("lr_scale", "lm_head.weight")))
    assert about["parameters"] == counted and about["digest"] == digest(state)
    assert convert.main(["inspect", str(checkpoint)]) == 0
    assert f"{counted:,}" in capsys.readouterr().out


def test_extend_and_the_way_through_safetensors(checkpoint: Path, tmp_path: Path) -> None:
    longer, safe, back = tmp_path / "longer.pt", tmp_path / "a.safetensors", tmp_path / "back.pt"
    assert convert.main(["extend", str(checkpoint), str(longer), "--max-positions", "64"]) == 0
    assert convert.main(["to-safetensors", str(longer), str(safe)]) == 0
    assert convert.main(["from-safetensors", str(safe), str(back)]) == 0
    assert read(back).model["max_positions"] == 64 and digest(read(back).state) == digest(read(longer).state)
    assert convert.main(["extend", str(safe), str(back), "--projected-length", "4", "--force"]) == 0
    assert read(back).model["projected_length"] == "4"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "absent.pt"], "absent.pt: no such file"),
        (["extend", "SOURCE", "new.pt"], "nothing to do: give --max-positions"),
        (["extend", "SOURCE", "SOURCE", "--max-positions", "64"], "source.pt exists"),
        (["to-safetensors", "SOURCE", "new.pt"], "must end with .safetensors"),
        (["from-official", "SOURCE", "new.pt"], "not a checkpoint of fairseq's examples/linformer"),
    ],
)
def test_refusals_are_one_sentence_and_write_nothing(
    words: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = checkpoint.read_bytes()
    assert convert.main([str(checkpoint) if word == "SOURCE" else word for word in words]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith(f"convert.py {words[0]}: error: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source.pt"] and checkpoint.read_bytes() == before
