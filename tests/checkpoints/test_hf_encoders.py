"""BERT, RoBERTa, XLM-R and CamemBERT, made by their own code: equal vectors after the way through fairseq and back."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from data_prep import encoders
from data_prep.__main__ import main as data_prep
from linformer_fairseq import cli
from linformer_fairseq.checkpoints.checkpoint import FINE_TUNED, build, digest, read
from linformer_fairseq.checkpoints.folders import read_any
from linformer_fairseq.checkpoints.hf_encoders import from_hf_encoder
from linformer_fairseq.finetuning.glue import find_task
from linformer_fairseq.finetuning.train import MODEL, Run, digests_of, finetune
from linformer_fairseq.inference.predict import Labels, predict
from linformer_fairseq.inference.sequences import encode, tokenizer_of
from linformer_fairseq.plugin import register
from linformer_fairseq.scores import score
from linformer_fairseq.tables import Table, read_table
from tests.checkpoints.hf_sources import (
    CLASSES,
    INPUTS,
    TEXTS,
    TRUST,
    N,
    add_sentence_transformers,
    ids_of,
    make_source,
    run,
    there,
    write_tokenizer,
)


@torch.no_grad()
@pytest.mark.parametrize("kind", CLASSES)
def test_vectors_logits_and_ids_are_those_of_the_original(kind: str, tmp_path: Path) -> None:
    model = make_source(kind, tmp_path / "a")
    out = there(tmp_path / "a")
    ids = ids_of(tmp_path / "a")
    found = ids_of(out)
    assert all(torch.equal(found[name], ids[name]) for name in INPUTS)
    assert len(set(ids["attention_mask"].sum(1).tolist())) == len(TEXTS)
    real = ids["attention_mask"].bool()
    expected = AutoModel.from_pretrained(tmp_path / "a")(**ids).last_hidden_state
    vectors = AutoModel.from_pretrained(out, **TRUST)(**ids).last_hidden_state
    torch.testing.assert_close(vectors[real], expected[real], rtol=1e-5, atol=1e-5)
    logits = AutoModelForMaskedLM.from_pretrained(out, **TRUST)(**ids).logits
    torch.testing.assert_close(logits[real], model(**ids).logits[real], rtol=1e-5, atol=2e-5)
    tokenizer = AutoTokenizer.from_pretrained(out, **TRUST)
    assert AutoModel.from_pretrained(out, **TRUST).config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.model_max_length == N and list(tokenizer(TEXTS[0])) == list(INPUTS)
    # In fairseq, of every token of the first text the score of the token itself: the columns are ours.
    checkpoint = read(tmp_path / "a.pt")
    ours = torch.from_numpy(encode([(TEXTS[0],)], tokenizer_of(checkpoint, None), N).ids[0])
    theirs = ids["input_ids"][0][real[0]]
    scores, wanted = build(checkpoint)(ours[None])[0][0], model(**ids).logits[0][real[0]]
    own, expected = scores.gather(1, ours[:, None]), wanted.gather(1, theirs[:, None])
    torch.testing.assert_close(own, expected, rtol=1e-5, atol=2e-5)


@torch.no_grad()
def test_a_bert_with_the_tokenizer_of_xlm_r(tmp_path: Path) -> None:
    """As the multilingual MiniLM, whose configuration has another id for <pad> than its tokenizer."""
    make_source("bert", tmp_path / "a", "Model")
    (tmp_path / "a/vocab.txt").unlink()
    write_tokenizer("xlm-roberta", tmp_path / "a")
    (tmp_path / "a/tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    out = there(tmp_path / "a")
    ids = ids_of(tmp_path / "a")
    assert torch.equal(ids_of(out)["input_ids"], ids["input_ids"])
    real = ids["attention_mask"].bool()
    expected = AutoModel.from_pretrained(tmp_path / "a")(**ids).last_hidden_state
    model = AutoModel.from_pretrained(out, **TRUST)
    torch.testing.assert_close(model(**ids).last_hidden_state[real], expected[real], rtol=1e-5, atol=1e-5)
    assert model.config.pad_token_id == 1 and AutoModel.from_pretrained(tmp_path / "a").config.pad_token_id == 0


@pytest.mark.parametrize("kind", CLASSES)
def test_back_in_fairseq_nothing_has_changed(kind: str, tmp_path: Path) -> None:
    make_source(kind, tmp_path / "a")
    out = there(tmp_path / "a")
    run("from-hf", out, tmp_path / "back.pt")
    assert digest(read(tmp_path / "back.pt").state) == digest(read(tmp_path / "a.pt").state)
    assert read(tmp_path / "back.pt").model == read(tmp_path / "a.pt").model
    run("to-hf", tmp_path / "back.pt", tmp_path / "again")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


@torch.no_grad()
@pytest.mark.parametrize("kind", CLASSES)
def test_vectors_of_encode_are_the_same_means(kind: str, tmp_path: Path) -> None:
    make_source(kind, tmp_path / "a", "Model")
    run("from-bert", tmp_path / "a", tmp_path / "a.pt", "--attention", "exact")
    texts = [" ".join(text.split()) for text in TEXTS]  # as `encode` reads them
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["--checkpoint", tmp_path / "a.pt", "--input", tmp_path / "texts.jsonl", "--text-column", "text"]
    assert cli.main(["encode", *map(str, words), "--out", str(tmp_path / "out.parquet"), "--device", "cpu"]) == 0
    found = np.array(parquet.read_table(tmp_path / "out.parquet")["vector"].to_pylist())
    ids = ids_of(tmp_path / "a", texts)
    mask = ids["attention_mask"].unsqueeze(-1)
    hidden = AutoModel.from_pretrained(tmp_path / "a")(**ids).last_hidden_state
    expected = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_encoder_of_a_converted_model(tmp_path: Path) -> None:
    make_source("bert", tmp_path / "a")
    run("from-bert", tmp_path / "a", tmp_path / "a.pt", "--attention", "exact")
    encoder = encoders.load(tmp_path / "a.tokenizer")
    ids, lengths = encoder.encode(["lengths [MASK]", ""])
    assert lengths.tolist() == [len(ids), 0] and ids[-1] == encoder.symbols - 1 == 399
    assert encoder.decode([0, *ids, 2, 1]) == "lengths [MASK]"
    own = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert own.convert_ids_to_tokens([int(encoder.names[i]) for i in ids[:-1]]) == own.tokenize("lengths")
    words = [not token.startswith("##") for token in own.tokenize("lengthof k")]
    assert encoder.starts_word[encoder.encode(["lengthof k"])[0]].tolist() == words and not all(words)
    assert {"dict.txt", "huggingface/tokenizer.json", "huggingface/vocab.txt"} <= set(encoder.files)


def test_the_tokenizer_of_a_converted_model_prepares_data(tmp_path: Path) -> None:
    make_source("bert", tmp_path / "a")
    add_sentence_transformers(tmp_path / "a")
    run("from-bert", tmp_path / "a", tmp_path / "a.pt", "--attention", "exact")
    words = ["tokenizer", "--import", str(tmp_path / "a.tokenizer"), "--out", str(tmp_path / "tokenizer")]
    assert data_prep(words) == 0
    for path in (tmp_path / "a.tokenizer").rglob("*"):
        if path.is_file():
            copy = tmp_path / "tokenizer" / path.relative_to(tmp_path / "a.tokenizer")
            assert copy.read_bytes() == path.read_bytes()
    run("to-hf", tmp_path / "a.pt", tmp_path / "b", "--data", tmp_path / "tokenizer")
    assert (tmp_path / "b/1_Pooling/config.json").is_file()


def test_what_is_new_or_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_source("bert", tmp_path / "a", "Model")
    run("from-bert", tmp_path / "a", tmp_path / "a.pt", "--attention", "exact")
    said = capsys.readouterr().out
    assert "left out, since no Linformer has it: pooler\n" in said
    assert "no masked-LM head: a new one, whose output matrix is the embedding, is untrained" in said
    make_source("bert", tmp_path / "b", "ForPreTraining")
    run("from-bert", tmp_path / "b", tmp_path / "b.pt", "--attention", "exact")
    said = capsys.readouterr().out
    assert "next-sentence prediction and pooler\n" in said and "masked-LM" not in said


@torch.no_grad()
@pytest.mark.parametrize("kind", CLASSES)
def test_classification_heads_give_equal_scores(kind: str, tmp_path: Path) -> None:
    model = make_source(kind, tmp_path / "a", "ForSequenceClassification", num_labels=3)
    out = there(tmp_path / "a")
    ids = ids_of(tmp_path / "a")
    found = transformers.AutoModelForSequenceClassification.from_pretrained(out, **TRUST)(**ids).logits
    torch.testing.assert_close(found, model(**ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("problem", [None, "single_label_classification", "multi_label_classification", "regression"])
def test_what_a_classification_head_has_learnt_is_kept(problem: str | None, tmp_path: Path) -> None:
    names = ["LABEL_0"] if problem == "regression" else ["contradiction", "entailment", "neutral"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    make_source("roberta", tmp_path / "a", "ForSequenceClassification", **labels, problem_type=problem)
    made = read_any(tmp_path / "a")
    run("from-hf", there(tmp_path / "a"), tmp_path / "b.pt")
    assert read(tmp_path / "b.pt").notes == read(tmp_path / "a.pt").notes
    run("to-hf", tmp_path / "b.pt", tmp_path / "b")
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert list(config["id2label"].values()) == names
    assert config.get("problem_type") == (None if problem == "single_label_classification" else problem)
    found = predict(made, tokenizer_of(made, tmp_path / "a.tokenizer"), [(text,) for text in TEXTS])
    assert all(isinstance(value, float) or set(value.split("|")) <= {"", *names} for value in found)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_several_labels_that_were_learnt_after_export_come_back(problem: str, tmp_path: Path) -> None:
    make_source("roberta", tmp_path / "a", "ForSequenceClassification", num_labels=3)
    path = there(tmp_path / "a") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "problem_type": problem}))
    run("from-hf", path.parent, tmp_path / "b.pt")
    several = problem == "multi_label_classification"
    assert bool(read(tmp_path / "b.pt").note(FINE_TUNED)) == several
    run("to-hf", tmp_path / "b.pt", tmp_path / "b")
    assert json.loads((tmp_path / "b/config.json").read_text()).get("problem_type") == (problem if several else None)


@torch.no_grad()
def test_layer_norms_of_the_first_berts_are_understood(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make_source("bert", tmp_path / "a")
    state = load_file(tmp_path / "a/model.safetensors")
    expected = from_hf_encoder(tmp_path / "a")
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {re.sub(r"LayerNorm\.\w+", lambda found: names[found[0]], key): value for key, value in state.items()}
    assert renamed.keys() != state.keys()
    save_file(renamed, tmp_path / "a/model.safetensors", {"format": "pt"})
    assert digest(from_hf_encoder(tmp_path / "a").state) == digest(expected.state)


@torch.no_grad()
def test_longer_inputs_and_another_attention(tmp_path: Path) -> None:
    make_source("bert", tmp_path / "a", "Model")
    run("from-bert", tmp_path / "a", tmp_path / "long.pt", "--attention", "exact", "--max-positions", 2 * N)
    ids = torch.from_numpy(encode([(TEXTS[0],)], encoders.load(tmp_path / "long.tokenizer"), N).ids[0])[None]
    short, long = build(from_hf_encoder(tmp_path / "a")), build(read(tmp_path / "long.pt"))
    expected = short(ids, features_only=True)[0]
    torch.testing.assert_close(long(ids, features_only=True)[0], expected)
    positions = long.encoder.sentence_encoder.embed_positions.weight[2:]
    assert torch.equal(positions[:N], positions[N:])
    run("from-bert", tmp_path / "a", tmp_path / "k.pt", "--projection", "linear", "--projected-length", 20)
    made = read(tmp_path / "k.pt")
    assert made.model["projection"] == "linear" and made.model["layer_norm_eps"] == 1e-2
    assert build(made)(ids, features_only=True)[0].shape == expected.shape


@torch.no_grad()
def test_a_fine_tuned_bert_stays_one(tmp_path: Path) -> None:
    make_source("bert", tmp_path / "a", "Model", hidden_dropout_prob=0.0)
    run("from-bert", tmp_path / "a", tmp_path / "a.pt", "--attention", "exact")
    with torch.enable_grad():
        register()
        source = read(tmp_path / "a.pt")
        rows = Table(Path("rows.tsv"), [(text,) for text in TEXTS * 4], ["long", "short", "short", "long"] * 4)
        tables = {"train": rows, "dev": rows}
        digests = digests_of(source, None, tables)
        labels = Labels(("long", "short"), 1)
        task = Run("task", tmp_path, tmp_path / "a.pt", None, tables, digests, labels, ("accuracy",), 1, 1e-3, 8, 1)
        finetune(task)
    tuned = read(tmp_path / MODEL)
    assert tuned.model["layer_norm_eps"] == source.model["layer_norm_eps"] == 1e-2
    run("to-hf", tmp_path / MODEL, tmp_path / "b", "--labels", "long", "short")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "b", **TRUST)
    own = torch.from_numpy(encode([(TEXTS[0],)], tokenizer_of(tuned, None), N).ids[0])[None]
    expected = build(tuned)(own, features_only=True, classification_head_name=tuned.heads[0])[0]
    torch.testing.assert_close(model(**ids_of(tmp_path / "b")).logits[:1], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.skipif("LINFORMER_TEST_MINILM" not in os.environ, reason="LINFORMER_TEST_MINILM names no all-MiniLM-L6-v2")
def test_all_minilm(tmp_path: Path) -> None:
    source = Path(os.environ["LINFORMER_TEST_MINILM"])
    run("from-bert", source, tmp_path / "a.pt", "--attention", "exact")
    run("to-hf", tmp_path / "a.pt", tmp_path / "out")
    ids = ids_of(source)
    real = ids["attention_mask"].bool()
    assert torch.equal(ids_of(tmp_path / "out")["input_ids"], ids["input_ids"])
    expected = AutoModel.from_pretrained(source)(**ids).last_hidden_state
    found = AutoModel.from_pretrained(tmp_path / "out", **TRUST)(**ids).last_hidden_state
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif("LINFORMER_TEST_MINILM" not in os.environ, reason="LINFORMER_TEST_MINILM names no all-MiniLM-L6-v2")
def test_all_minilm_with_slots_and_a_window_keeps_its_sentence_vectors(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    """With sentence-transformers, whose vectors of texts of up to k tokens are those of the original."""
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    with tarfile.open(shared_data("glue/STS-B.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    task = find_task("STS-B")
    table = read_table(next(tmp_path.rglob("dev.tsv")), task.text, task.label)
    source, words = Path(os.environ["LINFORMER_TEST_MINILM"]), ("--projected-length", "128", "--local-window", "16")
    assert cli.main(["convert", "from-bert", str(source), str(tmp_path / "a.pt"), *words]) == 0
    assert cli.main(["convert", "to-hf", str(tmp_path / "a.pt"), str(tmp_path / "out")]) == 0
    original = library.SentenceTransformer(str(source), device="cpu")
    found = library.SentenceTransformer(str(tmp_path / "out"), device="cpu", **TRUST)
    texts = [text for column in zip(*table.texts, strict=True) for text in column]
    assert max(map(len, original.tokenizer(texts)["input_ids"])) <= 128
    vectors = found.encode(texts)
    np.testing.assert_allclose(vectors, original.encode(texts), atol=1e-5)
    cosines = (vectors[: len(table)] * vectors[len(table) :]).sum(1)
    assert score("spearman", [float(label) for label in table.labels], cosines.tolist()) >= 86.7
