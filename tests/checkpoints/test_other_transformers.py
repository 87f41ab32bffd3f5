"""An exported folder gives the same numbers on other versions of transformers, each in a folder of its own.

LINFORMER_TRANSFORMERS names these folders, separated by colons, each made by `pip install --target FOLDER
transformers==VERSION` (CI does it for the oldest version that is declared and for the newest).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from linformer_fairseq.checkpoints.checkpoint import read
from linformer_fairseq.checkpoints.huggingface import HEADS, to_hf
from linformer_fairseq.hf import modeling_linformer

FOLDERS = os.environ.get("LINFORMER_TRANSFORMERS", "").split(":")
PROGRAM = """
import sys, torch, transformers
from transformers import AutoTokenizer
folder, seen = sys.argv[1:]
print(transformers.__version__)
batch = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("the river reads  a book", return_tensors="pt")
outputs = {}
for name in ["AutoModel"] + ["AutoModelFor" + head for head in HEADS]:
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
    assert not any(parameter.isnan().any() for parameter in model.parameters())
    given = {k: v[None] for k, v in batch.items()} if "Choice" in name else batch
    out = model(**given, output_hidden_states=True, output_attentions=True)
    assert model(**given, return_dict=False)[0].shape == out[0].shape
    outputs[name] = out.hidden_states[-1]
    if name == "AutoModelForMaskedLM":
        outputs["logits"] = out.logits
    model.save_pretrained(seen + "-" + name)
torch.save(outputs, seen)
"""


@pytest.mark.parametrize("packages", FOLDERS)
def test_the_numbers_are_the_same(packages: str, checkpoint: Path, tmp_path: Path) -> None:
    if not packages:
        pytest.skip("LINFORMER_TRANSFORMERS names no folder with another version of transformers")
    made = read(checkpoint)
    folder, seen = tmp_path / "hf", tmp_path / "seen.pt"
    to_hf(made, made.data, folder)
    program = PROGRAM.replace("HEADS", repr(list(HEADS)))
    environment = {
        **os.environ,
        "PYTHONPATH": packages,
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(tmp_path / "code"),
    }
    command = [sys.executable, "-c", program, str(folder), str(seen)]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert (Path(packages) / f"transformers-{ran.stdout.split()[0]}.dist-info").is_dir()
    ours = modeling_linformer.LinformerForMaskedLM.from_pretrained(folder).eval()
    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("the river reads a book", return_tensors="pt")
    expected = ours(**batch, output_hidden_states=True)
    found = torch.load(seen)
    torch.testing.assert_close(found.pop("logits"), expected.logits)
    assert len(found) == 1 + len(HEADS)
    for name, features in found.items():
        torch.testing.assert_close(features, expected.hidden_states[-1], msg=name)
