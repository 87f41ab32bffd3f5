"""fairseq -> Hugging Face -> fairseq: every tensor, every logit, on a machine without fairseq, and what is refused."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_prep.config import TokenizerConfig
from data_prep.corpus import Document, write_file
from data_prep.encoders import TOKENIZER_FILES
from data_prep.encoders import load as load_encoder
from data_prep.tokenizer import make_tokenizer
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, digest
from linformer_fairseq.checkpoints.hf_tokenizer import build_tokenizer
from linformer_fairseq.checkpoints.huggingface import from_hf, to_hf, write_tokenizer
from linformer_fairseq.checkpoints.names import OUTPUT
from linformer_fairseq.errors import UsageError
from linformer_fairseq.hf.modeling_linformer import (
    LinformerForMaskedLM,
    LinformerForSequenceClassification,
    LinformerModel,
)

MakeCheckpoint = Callable[..., Checkpoint]
SHARINGS = ("none", "headwise", "key-value", "layerwise")
KINDS = ("linear", "mean-pool", "max-pool", "conv", "adaptive")
OTHERS = [
    {"encoder_normalize_before": True, "local_conv": 3, "activation_fn": "relu"},
    {"untie_weights_roberta": True, "projection_sharing": "key-value", "projected_length": "16,8"},
    {"attention": "exact"},
    {"attention": "none", "local_conv": 5},
    {"position_grid": 5},
]
SETTINGS = [{"projection_sharing": sharing, "projection": kind} for sharing in SHARINGS for kind in KINDS] + OTHERS


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 40 symbols, as the small checkpoints have."""
    folder = tmp_path_factory.mktemp("data")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sees a tree", "a cat eats the tea", "tear these seats as a rat"] * 20),
        model_writer=model,
        vocab_size=36,
        hard_vocab_limit=False,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    names = [processor.id_to_piece(i) for i in range(1, len(processor))]
    names += [f"madeupword{i:04d}" for i in range(40 - 5 - len(names))]
    (folder / "sentencepiece.model").write_bytes(model.getvalue())
    (folder / "dict.txt").write_text("".join(f"{name} 1\n" for name in names), encoding="utf-8")
    return folder


def test_the_tokens_of_a_palette_are_the_same_in_transformers(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    texts = ["ff0000" * 4 + "0000ff" * 5, "0000ff" * 9]
    for name, text in zip(("a", "b"), texts, strict=True):
        write_file([Document(name, "images", "", text)], tmp_path / f"corpus/{name}.parquet")
    make_tokenizer(tmp_path / "corpus", tmp_path / "data", TokenizerConfig(colours=2))
    encoder = load_encoder(tmp_path / "data")
    tokenizer = build_tokenizer(tmp_path / "data", 11)
    for text in texts:
        ids = encoder.encode([text])[0].tolist()
        assert (
            tokenizer(text)["input_ids"] == tokenizer(" ".join(re.findall("......", text)))["input_ids"] == [0, *ids, 2]
        )
    assert tokenizer("ff0000<mask>123456")["input_ids"] == [0, encoder.encode(texts)[0][0], 63, 3, 2]
    (tmp_path / "folder").mkdir()
    for name in encoder.files:
        shutil.copy(tmp_path / "data" / name, tmp_path / "folder")
    (tmp_path / "folder/config.json").write_text(json.dumps({"model_type": "linformer", "vocab_size": 64}))
    write_tokenizer(tmp_path / "folder", tmp_path / "back")
    assert load_encoder(tmp_path / "back").names == encoder.names


def assert_same(checkpoint: Checkpoint, again: Checkpoint) -> None:
    assert again.state.keys() == checkpoint.state.keys()
    assert [key for key, value in checkpoint.state.items() if not torch.equal(value, again.state[key])] == []
    assert digest(again.state) == digest(checkpoint.state)
    assert (again.model, again.task) == (checkpoint.model, checkpoint.task)
    assert (again.updates, again.notes) == (checkpoint.updates, checkpoint.notes)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(map(str, settings.values())))
@torch.no_grad()
def test_there_and_back(
    make_checkpoint: MakeCheckpoint, tokens: Tensor, data: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    checkpoint = make_checkpoint(heads={"topic": 3}, projection_lr_scale=0.3, pooler_activation_fn="gelu", **settings)
    checkpoint.notes.append({"conversion": "none"})
    to_hf(checkpoint, data, tmp_path / "hf")
    assert_same(checkpoint, from_hf(tmp_path / "hf"))

    theirs = build(checkpoint)
    masked = LinformerForMaskedLM.from_pretrained(tmp_path / "hf")
    base = LinformerModel.from_pretrained(tmp_path / "hf")
    classifier = LinformerForSequenceClassification.from_pretrained(tmp_path / "hf")
    for ids in (tokens, tokens[:1], torch.cat([tokens, torch.ones(2, 7, dtype=torch.long)], 1), tokens[:, :9]):
        mask = ids.ne(1)
        compared = [
            (masked(ids, mask).logits[mask], theirs(ids)[0][mask]),
            (base(ids, mask).last_hidden_state[mask], theirs(ids, features_only=True)[0][mask]),
            (classifier(ids, mask).logits, theirs(ids, features_only=True, classification_head_name="topic")[0]),
        ]
        for ours, expected in compared:
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_half_precision_and_two_heads_travel(make_checkpoint: MakeCheckpoint, data: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(heads={"topic": 3, "mood": 1})
    checkpoint.state = {key: value.half() for key, value in checkpoint.state.items()}
    with pytest.raises(UsageError, match="has the heads mood, topic; choose one with --head"):
        to_hf(checkpoint, data, tmp_path / "hf")
    to_hf(checkpoint, data, tmp_path / "hf", head="mood")
    assert_same(checkpoint, from_hf(tmp_path / "hf"))
    model = LinformerForSequenceClassification.from_pretrained(tmp_path / "hf")
    assert model.num_labels == 1 and model.dtype == torch.float16


def test_what_is_in_the_folder(make_checkpoint: MakeCheckpoint, data: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(heads={"topic": 3})
    checkpoint.task["data"] = f"{data}/shard0:{data}/shard1"
    to_hf(checkpoint, data, tmp_path / "hf", labels=["sport", "law", "art"])
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["id2label"] == {"0": "sport", "1": "law", "2": "art"}
    assert config["architectures"] == ["LinformerForSequenceClassification"]
    assert "encoder.lm_head.weight" not in load_file(tmp_path / "hf/model.safetensors")
    card = (tmp_path / "hf/README.md").read_text()
    for text in ("| projected length k | 8 |", "| longest input n | 32 |", "| updates | 7 |", "sport, law, art"):
        assert text in card
    assert 'pipeline("text-classification", model="hf", trust_remote_code=True)' in card
    for path in filter(Path.is_file, (tmp_path / "hf").rglob("*")):
        assert str(data.parent).encode() not in path.read_bytes(), f"{path.name} tells about the machine"
    assert len({path.stat().st_mode for path in (tmp_path / "hf").glob("*.[js]*")}) == 1
    for name in TOKENIZER_FILES[:2]:
        assert (tmp_path / "hf" / name).read_bytes() == (data / name).read_bytes()


def test_the_dictionary_comes_back(make_checkpoint: MakeCheckpoint, data: Path, tmp_path: Path) -> None:
    to_hf(make_checkpoint(), data, tmp_path / "hf")
    write_tokenizer(tmp_path / "hf", tmp_path / "fairseq")
    assert {path.name: path.read_bytes() for path in (tmp_path / "fairseq").iterdir()} == {
        path.name: path.read_bytes() for path in data.iterdir()
    }
    with pytest.raises(UsageError, match="dict.txt exists"):
        write_tokenizer(tmp_path / "hf", tmp_path / "fairseq")
    for name in ("dict.txt", "tokenizer.json"):
        (tmp_path / "hf" / name).unlink()
    with pytest.raises(UsageError, match="holds no tokenizer"):
        write_tokenizer(tmp_path / "hf", tmp_path / "other")


def test_training_with_transformers_comes_back(
    make_checkpoint: MakeCheckpoint, tokens: Tensor, data: Path, tmp_path: Path
) -> None:
    to_hf(make_checkpoint(), data, tmp_path / "hf")
    model = LinformerForSequenceClassification.from_pretrained(tmp_path / "hf", num_labels=4)
    model.config.classifier_dropout = 0.25
    torch.nn.init.normal_(model.linformer.encoder.E.weight)
    model.save_pretrained(tmp_path / "tuned", max_shard_size="10KB")
    assert (tmp_path / "tuned/model.safetensors.index.json").exists()
    back = from_hf(tmp_path / "tuned")
    assert back.heads == ["sentence_classification_head"] and back.model["pooler_dropout"] == 0.25
    assert back.updates == 7 and back.notes[-1]["masked-LM head"] == "new, since the folder has none"
    scores, _ = build(back)(tokens, features_only=True, classification_head_name=back.heads[0])
    expected = model.eval()(tokens).logits
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    LinformerModel.from_pretrained(tmp_path / "hf").save_pretrained(tmp_path / "base")
    assert torch.equal(build(from_hf(tmp_path / "base"))(tokens, features_only=True)[0], base_of(tmp_path, tokens))


def base_of(folder: Path, tokens: Tensor) -> Tensor:
    features: Tensor = LinformerModel.from_pretrained(folder / "base")(tokens).last_hidden_state
    return features


WITHOUT_FAIRSEQ = """
import json, sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fairseq", "linformer_fairseq", "data_prep"):
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
for name in ("torchaudio", "sentencepiece", "google.protobuf"):  # come with fairseq, or serve the conversion only
    sys.modules[name] = None
try:
    import fairseq
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("fairseq is here")

import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

folder, text, copy = sys.argv[1:]
trust = {"trust_remote_code": True}
tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
ids = tokenizer([text, "the"], padding=True, return_tensors="pt")
masked = AutoModelForMaskedLM.from_pretrained(folder, **trust)
fill = pipeline("fill-mask", model=folder, **trust)
classify = pipeline("text-classification", model=folder, **trust)
with torch.no_grad():
    found = {
        "ids": ids["input_ids"].tolist(),
        "logits": masked(**ids).logits.tolist(),
        "features": AutoModel.from_pretrained(folder, **trust)(**ids).last_hidden_state.tolist(),
        "scores": AutoModelForSequenceClassification.from_pretrained(folder, **trust)(**ids).logits.tolist(),
        "top": [(one["token"], one["score"]) for one in fill(text, top_k=5)],
        "label": classify("the cat")[0]["label"],
    }
    masked.save_pretrained(copy)
    tokenizer.save_pretrained(copy)
    again = AutoModelForMaskedLM.from_pretrained(copy, **trust)
    assert torch.equal(again(**ids).logits, masked(**ids).logits)
print("RESULT" + json.dumps(found))
"""


@torch.no_grad()
def test_loaded_where_there_is_no_fairseq(make_checkpoint: MakeCheckpoint, data: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(heads={"topic": 3}, projection_sharing="none", local_conv=3)
    for parameter in checkpoint.state.values():
        parameter.mul_(3)  # far from a tie
    to_hf(checkpoint, data, tmp_path / "hf", labels=["sport", "law", "art"])
    text = "the cat <mask> a tree"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_FAIRSEQ, tmp_path / "hf", text, tmp_path / "copy"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("RESULT")[1])

    ids = torch.tensor(found["ids"])
    assert ids.tolist() == build_tokenizer(data, 32)([text, "the"], padding=True)["input_ids"]
    real = ids.ne(1)
    model = build(checkpoint)
    for name, expected in (("logits", model(ids)[0]), ("features", model(ids, features_only=True)[0])):
        torch.testing.assert_close(torch.tensor(found[name])[real], expected[real], atol=1e-5, rtol=1e-5)
    scores, _ = model(ids, features_only=True, classification_head_name="topic")
    torch.testing.assert_close(torch.tensor(found["scores"]), scores, atol=1e-5, rtol=1e-5)
    assert found["label"] in ("sport", "law", "art")

    sentence = ids[0][real[0]]
    chances = model(sentence[None])[0][0, sentence.tolist().index(39)].softmax(-1)
    top = chances.topk(5)
    assert [token for token, _ in found["top"]] == top.indices.tolist()
    torch.testing.assert_close(torch.tensor([score for _, score in found["top"]]), top.values, atol=1e-5, rtol=1e-5)
    assert_same(replace(checkpoint, state={}), replace(from_hf(tmp_path / "copy"), state={}))


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda c, d: None, {"head": "mood"}, "--head mood: the checkpoint has topic"),
        (lambda c, d: None, {"labels": ["a", "b"]}, "--labels a b: the head topic has 3 classes"),
        (lambda c, d: c.state.pop("encoder.lm_head.bias"), {}, "do not fit its settings"),
        (lambda c, d: (d / "dict.txt").open("a").write("madeupword9 1\n"), {}, "makes 41 symbols and .* has 40"),
        (lambda c, d: (d / "dict.txt").unlink(), {}, "dict.txt: missing"),
        (lambda c, d: c.state.update({OUTPUT: c.state[OUTPUT] + 1}), {}, "differs from the embedding"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    make_checkpoint: MakeCheckpoint,
    data: Path,
    tmp_path: Path,
    change: Callable[[Checkpoint, Path], Any],
    arguments: dict[str, Any],
    message: str,
) -> None:
    checkpoint = make_checkpoint(heads={"topic": 3})
    own = tmp_path / "data"
    own.mkdir()
    for path in data.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    change(checkpoint, own)
    with pytest.raises(UsageError, match=message):
        to_hf(checkpoint, own, tmp_path / "hf", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_is_replaced_only_with_force(make_checkpoint: MakeCheckpoint, data: Path, tmp_path: Path) -> None:
    one, two = make_checkpoint(seed=1), make_checkpoint(seed=2)
    to_hf(one, data, tmp_path / "hf")
    with pytest.raises(UsageError, match="hf exists; choose another target"):
        to_hf(two, data, tmp_path / "hf")
    assert_same(one, from_hf(tmp_path / "hf"))
    to_hf(two, data, tmp_path / "hf", force=True)
    assert_same(two, from_hf(tmp_path / "hf"))
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def drop_a_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["lm_head.layer_norm.weight"]
    save_file(state, folder / "model.safetensors")


def add_a_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({**state, "decoder.weight": torch.ones(2)}, folder / "model.safetensors")


def change_config(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **values}))

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "more.json").symlink_to("/etc/hostname"), "more.json: is a link out of the folder"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: cannot be read as JSON"),
        (change_config(model_type="roberta"), "a model of type roberta, not a Linformer"),
        (change_config(projected_length=64), "not the configuration of a Linformer .*--projected-length 64"),
        (change_config(hidden_size="many"), "not the configuration of a Linformer"),
        (change_config(projected_length=4), "do not fit its settings"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has neither model.safetensors nor"),
        (lambda folder: os.truncate(folder / "model.safetensors", 5000), "missing or not a whole safetensors file"),
        (drop_a_tensor, "do not fit its settings.*lm_head.layer_norm.weight"),
        (add_a_tensor, "decoder.weight belongs to no part of a Linformer"),
    ],
)
def test_other_folders_are_refused_in_a_sentence(
    make_checkpoint: MakeCheckpoint, data: Path, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    to_hf(make_checkpoint(), data, tmp_path / "hf")
    spoil(tmp_path / "hf")
    with pytest.raises(UsageError, match=message):
        from_hf(tmp_path / "hf")
