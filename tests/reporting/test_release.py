"""A release: whole, the checkpoint's own numbers in transformers and ONNX Runtime, what is known on its card."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import onnxruntime
import pytest
import torch
from transformers import AutoModel

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, read, write
from linformer_fairseq.commands import convert


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Path:
    """The folder of a training run."""
    folder = tmp_path / "run"
    (folder / "run").mkdir(parents=True)
    shutil.copy(checkpoint, folder / "checkpoint_best.pt")
    figures = {"split": "valid", "start": 1, "loss": 3.0, "perplexity": 8.5, "tokens": 4096}
    lines = ({**figures, "update": 7}, {**figures, "update": 9, "loss": 3.5, "perplexity": 11.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run/config.yaml").write_text("task: {_name: masked_lm, data: /secret/data}\ncommon: {seed: 5}\n")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@torch.inference_mode()
def test_a_release_of_a_run(run: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "mini"
    assert convert.main(["release", str(run), str(out)]) == 0
    found = files(out)
    sums = dict(reversed(line.split("  ")) for line in found.pop("SHA256SUMS").decode().splitlines())
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}

    model, wanted = AutoModel.from_pretrained(out, trust_remote_code=True), build(read(checkpoint))
    session = onnxruntime.InferenceSession(out / "model.onnx")
    for n in (64, 23):
        ids = torch.randint(4, 300, (3, n), generator=torch.Generator().manual_seed(n))
        ids[1, 9:] = 1
        mask = ids.ne(1)
        features = wanted(ids, features_only=True)[0][mask]
        torch.testing.assert_close(model(ids, mask).last_hidden_state[mask], features, atol=1e-5, rtol=1e-5)
        (given,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.long().numpy()})
        torch.testing.assert_close(torch.from_numpy(given)[mask], features, atol=1e-4, rtol=1e-4)

    card = found["README.md"].decode()
    for line in ("| best validation: update | 7 |", "| best validation: perplexity | 8.5 |", "| common.seed | 5 |"):
        assert line in card
    assert "| tokenizer | kept |" in card and "To be filled in" not in card
    assert not any(b"/secret" in content or str(checkpoint.parent).encode() in content for content in found.values())

    with pytest.raises(convert.UsageError, match="mini exists; choose another target, or replace it with --force"):
        convert.main(["release", str(run), str(out)])
    assert convert.main(["release", str(run), str(out), "--force"]) == 0
    assert files(out) == {**found, "SHA256SUMS": (out / "SHA256SUMS").read_bytes()}
    assert {path.name for path in tmp_path.iterdir()} == {"run", "mini"}


@torch.inference_mode()
def test_a_release_of_a_classifier(checkpoint: Path, tokenizer: Path, tmp_path: Path) -> None:
    source = read(checkpoint)
    model = build(source)
    model.register_classification_head("topic", num_classes=3)
    write(Checkpoint(model.state_dict(), source.model, scores={"accuracy": 87.5}), tmp_path / "tuned.pt")
    words = ["release", str(tmp_path / "tuned.pt"), str(tmp_path / "out"), "--data", str(tokenizer)]
    assert convert.main([*words, "--labels", "a", "b", "c"]) == 0
    ids = torch.randint(4, 300, (2, 30), generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    (given,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": ids.ne(1).long().numpy()})
    wanted = build(read(tmp_path / "tuned.pt"))(ids, features_only=True, classification_head_name="topic")[0]
    torch.testing.assert_close(torch.from_numpy(given), wanted, atol=1e-4, rtol=1e-4)
    card = (tmp_path / "out/README.md").read_text()
    assert "| accuracy | 87.5 |" in card and "Classification of texts" in card


def test_what_is_no_run_with_a_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "checkpoint_best.pt").unlink()
    with pytest.raises(convert.UsageError, match=r"run: has no checkpoint_best.pt or checkpoint_last.pt; name a"):
        convert.main(["release", str(run), str(tmp_path / "out")])
    with pytest.raises(convert.UsageError, match="has neither metrics.jsonl of a training run"):
        convert.main(["release", str(tmp_path), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
