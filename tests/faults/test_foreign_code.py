"""Files that would run code where a reader is careless, given to every command that reads a file of that kind."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from linformer_fairseq.checkpoints.checkpoint import read
from linformer_fairseq.checkpoints.huggingface import to_hf
from linformer_fairseq.cli import main
from linformer_fairseq.paths import USER_DIR

RunFairseq = Callable[..., CompletedProcess[str]]
TRAIN = "--task masked_lm --criterion masked_lm --arch linformer_roberta_tiny --max-positions 64 --tokens-per-sample 64"
TRAIN += f" --projected-length 16 --batch-size 4 --max-update 1 --cpu --optimizer adam --lr 1e-3 --user-dir {USER_DIR}"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that every payload writes; commands work in a folder of their own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "ran"


def code(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w')"


class Payload:
    """Unpickling it runs code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (code(self.marker),)


def call(*words: object) -> int:
    """The exit status of a command, whichever way it ends."""
    try:
        return main(list(map(str, words)))
    except SystemExit as left:
        return int(left.code or 0) if isinstance(left.code, int | None) else 1


def test_the_payload_works(ran: Path) -> None:
    pickle.loads(pickle.dumps(Payload(ran)))
    assert ran.exists()


def checkpoints(source: Path, folder: Path, marker: Path) -> list[Path]:
    """Checkpoints whose pickles or settings would run code, in all forms of PyTorch's."""
    content = torch.load(source, weights_only=False)
    evil = {
        "anywhere": {**content, "more": Payload(marker)},
        "optimizer": {**content, "last_optimizer_state": {"state": {0: Payload(marker)}}},
        "parameter": {**content, "model": {**content["model"], "x": Payload(marker)}},
        "arguments": {**content, "args": Payload(marker)},
    }
    paths = [folder / f"{name}.pt" for name in evil]
    for path, made in zip(paths, evil.values(), strict=True):
        torch.save(made, path)
    torch.save(evil["anywhere"], folder / "legacy.pt", _use_new_zipfile_serialization=False)
    (folder / "plain.pt").write_bytes(pickle.dumps(Payload(marker)))
    (folder / "plain.safetensors").write_bytes(pickle.dumps(Payload(marker)))
    settings = {**content["cfg"], "optimizer": {"_name": "adam", "adam_betas": code(marker), "lr": [0.1]}}
    torch.save({**content, "cfg": settings}, folder / "evaluated.pt")
    return [*paths, *(folder / name for name in ("legacy.pt", "plain.pt", "plain.safetensors", "evaluated.pt"))]


@pytest.mark.slow
def test_no_command_runs_code_in_a_checkpoint(
    checkpoint: Path, tokenizer: Path, tiny_data: Path, tmp_path: Path, ran: Path, run_fairseq: RunFairseq
) -> None:
    table = tmp_path / "table.tsv"
    table.write_text("text\tlabel\n" + "a\tb\nc\td\n" * 9)
    (tmp_path / "text.txt").write_text("a river " * 99)
    for path in checkpoints(checkpoint, tmp_path, ran):
        flags = ["--checkpoint", path, "--data", tokenizer]
        for words in (
            ["convert", "inspect", path],
            *(["convert", way, path, f"{way}.pt"] for way in ("from-official", "from-roberta", "from-safetensors")),
            ["convert", "extend", path, "longer.pt", "--max-positions", 128],
            ["convert", "to-hf", path, "hf", "--data", tokenizer],
            ["convert", "to-safetensors", path, "a.safetensors"],
            ["choose-k", path, tmp_path / "text.txt", "--data", tokenizer],
            ["distill", path, checkpoint, tokenizer, "--save-dir", "run", "--dry-run"],
            ["distill", checkpoint, path, tokenizer, "--save-dir", "run", "--dry-run"],
            ["finetune", "predict", *flags, "--input", table, "--out", "predicted.tsv"],
        ):
            call(*words)
            assert not ran.exists(), (path, words)
        if path.stem != "evaluated":  # which is a whole model but for its optimizer
            for words in (
                ["finetune", "train", *flags, "--train", table, "--dev", table, "--epochs", 1, "--out", "tuned"],
                ["encode", *flags, "--input", table, "--out", "vectors.parquet"],
            ):
                assert call(*words) == 1
                assert not ran.exists(), (path, words)
    for flag in ("--restore-file", "--finetune-from-model"):
        for name in ("optimizer.pt", "evaluated.pt"):
            run_fairseq("fairseq-train", tiny_data, *TRAIN.split(), flag, tmp_path / name, "--no-save", check=False)
            assert not ran.exists(), (flag, name)
    validate = ["--user-dir", USER_DIR, "--task", "masked_lm", "--batch-size", 4]
    run_fairseq("fairseq-validate", tiny_data, *validate, "--path", tmp_path / "evaluated.pt", check=False)
    assert not ran.exists()


def test_no_command_runs_code_in_a_folder_of_transformers(
    checkpoint: Path, tokenizer: Path, tmp_path: Path, ran: Path
) -> None:
    made = tmp_path / "hf"
    to_hf(read(checkpoint), tokenizer, made, False, None, None)
    auto = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((made / name).read_text())
        (made / name).write_text(json.dumps({**content, "auto_map": auto, "tokenizer_class": "Evil"}))
    for file in (made / "evil.py", *made.glob("*.py")):
        file.write_text(code(ran))
    pickled, modules = tmp_path / "pickled", tmp_path / "modules"
    for copy in (pickled, modules):
        shutil.copytree(made, copy)
    (modules / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))
    (pickled / "model.safetensors").unlink()
    torch.save({"a": Payload(ran)}, pickled / "pytorch_model.bin")
    (tmp_path / "text.txt").write_text("a river " * 99)
    for folder in (made, pickled, modules):
        for kind in ("linformer", "bert", "roberta"):
            content = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**content, "model_type": kind}))
            for words in (
                *(["convert", way, folder, f"{way}.pt"] for way in ("from-hf", "from-bert", "from-roberta")),
                ["choose-k", folder, tmp_path / "text.txt"],
                ["prepare", "tokenizer", "--import", folder, "--out", "imported"],
            ):
                call(*words)
                assert not ran.exists(), (folder, kind, words)


def test_no_command_runs_code_in_settings(tokenizer: Path, tmp_path: Path, ran: Path) -> None:
    tagged = f"!!python/object/apply:eval [{json.dumps(code(ran))}]"
    recipe, pipeline = tmp_path / "recipe.yaml", tmp_path / "pipeline.yaml"
    for text in (
        f"optimization: {{lr: {tagged}}}",
        f"optimization: {{lr: {json.dumps(code(ran))}}}",
        f"optimization: {{update_freq: {json.dumps(code(ran))}}}",
        f"optimizer: {{_name: adam, adam_betas: {json.dumps(code(ran))}}}",
        f"model: {{_name: linformer_roberta_tiny, projected_length: {json.dumps(code(ran))}}}",
    ):
        recipe.write_text(text)
        assert call("train", recipe, tokenizer, "--save-dir", "run", "--dry-run") == 1 or "model" in text
        call("launch", "pretrain", "--recipe", recipe, "--data", tokenizer, "--save-dir", "run", "--dry-run")
        assert not ran.exists(), text
    pipeline.write_text(f"sources: {tagged}\n")
    assert call("prepare", "run", pipeline, "--out", "out") == 1
    assert call("prepare", "clean", tmp_path, "--out", "out", "--config", pipeline) == 1
    call("prepare", "run", "folder", f"split.valid={tagged}", "input=x", "--out", "out")
    assert not ran.exists()


def test_no_command_runs_code_in_texts_and_tables(checkpoint: Path, tokenizer: Path, tmp_path: Path, ran: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": b"?"}
    extension["ARROW:extension:metadata"] = pickle.dumps(Payload(ran))
    names = ("id", "source", "title", "text", "sha256")
    schema = pa.schema([pa.field(name, pa.string(), metadata=extension) for name in names], metadata=extension)
    rows = [dict.fromkeys(names, f"{number} a river") for number in range(9)]
    pq.write_table(pa.Table.from_pylist(rows, schema), corpus / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": code(ran), "__reduce__": [code(ran)]}) + "\n")
    (tmp_path / "a.py").write_text(f'"""A docstring of some words."""\n{code(ran)}\n')
    with zipfile.ZipFile(tmp_path / "a.epub", "w") as book:
        entity = f'<!DOCTYPE c [<!ENTITY e SYSTEM "file://{tokenizer}/dict.txt">]>'
        book.writestr("META-INF/container.xml", f"{entity}<container><rootfile full-path='&e;'/></container>")
    with (corpus / "a.npy").open("wb") as file:
        np.save(file, np.array([Payload(ran)], dtype=object), allow_pickle=True)
    words: list[list[object]] = [
        ["prepare", "extract", "--source", kind, file, "--out", f"{kind}-out", "--on-error", "skip"]
        for kind, file in (
            ("parquet", corpus),
            ("jsonl", tmp_path / "a.jsonl"),
            ("docstrings", tmp_path),
            ("books", tmp_path / "a.epub"),
            ("text", tmp_path / "a.jsonl"),
        )
    ]
    words += [["prepare", stage, corpus, "--out", stage] for stage in ("clean", "dedup", "split")]
    words.append(["prepare", "decontaminate", corpus, "--out", "decontaminated", "--benchmarks", corpus])
    words.append(["prepare", "tokenizer", corpus, "--out", "tokenizer", "--vocab-size", 320])
    words.append(["prepare", "inspect", corpus])
    words.append(["encode", "--checkpoint", checkpoint, "--input", corpus / "a.parquet", "--out", "a.parquet"])
    for command in words:
        call(*command)
        assert not ran.exists(), command
