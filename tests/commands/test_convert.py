"""The command line of conversions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.__main__ import main
from linformer_fairseq import cli
from linformer_fairseq.checkpoints import extend, warm_start
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, digest, read, write
from linformer_fairseq.commands import convert
from linformer_fairseq.layers import config


def test_inspect_says_what_a_checkpoint_is(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main(["inspect", str(checkpoint), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["projected length k"] == 16 and about["sharing"] == "layerwise" and about["updates"] == 7
    state = read(checkpoint).state
    # The output matrix is the embedding, and counts once; lr_scale is no parameter.
    counted = sum(v.numel() for k, v in state.items() if not k.endswith(("lr_scale", "lm_head.weight")))
    assert about["parameters"] == counted and about["digest"] == digest(state)
    assert convert.main(["inspect", str(checkpoint)]) == 0
    assert f"{counted:,}" in capsys.readouterr().out


def test_extend_and_the_way_through_safetensors(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer, safe, back = tmp_path / "longer.pt", tmp_path / "a.safetensors", tmp_path / "back.pt"
    assert convert.main(["extend", str(checkpoint), str(longer), "--max-positions", "128"]) == 0
    assert f"To train it further: fairseq-train --finetune-from-model {longer}\n" in capsys.readouterr().out
    assert convert.main(["to-safetensors", str(longer), str(safe)]) == 0
    assert convert.main(["from-safetensors", str(safe), str(back)]) == 0
    assert read(back).model["max_positions"] == 128 and digest(read(back).state) == digest(read(longer).state)
    assert convert.main(["extend", str(safe), str(back), "--projected-length", "4", "--force"]) == 0
    assert read(back).model["projected_length"] == "4"


def test_to_a_hugging_face_folder_and_back(checkpoint: Path, tmp_path: Path) -> None:
    folder, back = tmp_path / "folder", tmp_path / "back.pt"
    assert convert.main(["to-hf", str(checkpoint), str(folder)]) == 0
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} < {p.name for p in folder.iterdir()}
    assert convert.main(["from-hf", str(folder), str(back)]) == 0
    assert digest(read(back).state) == digest(read(checkpoint).state)
    assert convert.main(["to-hf", str(back), str(tmp_path / "again"), "--data", str(tmp_path / "back.tokenizer")]) == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_model_with_exact_attention_becomes_a_linformer(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = read(checkpoint)
    exact = {key: value for key, value in source.state.items() if ".E." not in key}
    write(Checkpoint(exact, {**source.model, "attention": "exact"}, source.task, 7), tmp_path / "exact.pt")
    words = ["from-roberta", str(tmp_path / "exact.pt"), str(tmp_path / "a.pt"), "--projected-length", "4"]
    assert convert.main([*words, "--projection-sharing", "headwise", "--max-positions", "128"]) == 0
    assert "perplexity" not in capsys.readouterr().out
    made = read(tmp_path / "a.pt")
    kept = {key for key in exact if not key.endswith("embed_positions.weight")}
    assert digest({key: made.state[key] for key in kept}) == digest({key: exact[key] for key in kept})
    assert made.model["projected_length"] == "4" and made.model["max_positions"] == 128
    assert sum(key.endswith((".E.weight", ".F.weight")) for key in made.state) == 4


def test_what_a_conversion_costs_is_said_where_there_is_text(
    checkpoint: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = read(checkpoint)
    exact = {key: value for key, value in source.state.items() if ".E." not in key}
    write(Checkpoint(exact, {**source.model, "attention": "exact"}, source.task, 7), tmp_path / "exact.pt")
    split = tmp_path / "split"
    assert main(["split", str(tokenizer.parent / "corpus"), "--out", str(split), "--valid", "0"]) == 0
    assert main(["binarize", str(split), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "data")]) == 0
    capsys.readouterr()
    words = ["from-roberta", str(tmp_path / "exact.pt"), str(tmp_path / "a.pt"), "--projected-length", "16"]
    assert convert.main([*words, "--sample", str(tmp_path / "data"), "--init", "svd", "--transfer", "3"]) == 0
    shown = capsys.readouterr().out
    assert "attention transfer: relative error" in shown
    line = next(line for line in shown.splitlines() if line.startswith("perplexity on"))
    # Untrained models guess evenly among 320 symbols, or nearly.
    figures = [float(found) for found in re.findall(r"(?:RoBERTa|converted|E and F) ([\d.]+)", line)]
    assert len(figures) == 3 and all(200 < figure < 600 for figure in figures)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "absent.pt"], "absent.pt: no such file"),
        (["extend", "SOURCE", "new.pt"], "nothing to do: give --max-positions"),
        (["extend", "SOURCE", "SOURCE", "--max-positions", "128"], "pretrained.pt exists"),
        (["to-safetensors", "SOURCE", "new.pt"], "must end with .safetensors"),
        (["to-hf", "SOURCE", "new", "--data", "absent"], "--data names the folder that the model was trained on"),
        (["from-hf", "absent", "new.pt"], "give a folder that to-hf or save_pretrained has written"),
        (["from-roberta", "SOURCE", "new.pt"], "use extend to change n or k"),
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
    assert cli.main(["convert", *(str(checkpoint) if word == "SOURCE" else word for word in words)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("linformer convert: error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir()) and checkpoint.read_bytes() == before


@pytest.mark.parametrize("words", [["--help"], ["to-hf", "--help"]])
def test_help_imports_no_large_package(words: list[str]) -> None:
    code = "import sys; from linformer_fairseq.cli import main\ntry: main(sys.argv[1:])\n"
    code += "finally: print(*sorted({'torch', 'fairseq', 'numpy', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    command = [sys.executable, "-c", code, "convert", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("usage: linformer convert") and done.stderr == "\n"


def test_choices_are_those_of_the_conversions() -> None:
    assert (convert.SHARINGS, convert.PROJECTIONS) == (config.SHARINGS, config.PROJECTIONS)
    assert (convert.INITS, convert.METHODS) == ((*warm_start.INITS, "exact"), extend.METHODS)
