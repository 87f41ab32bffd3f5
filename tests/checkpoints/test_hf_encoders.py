"""BERT, RoBERTa, XLM-R and CamemBERT, made by their own code: equal vectors after the way through fairseq and back."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import sentencepiece
import tokenizers
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from data_prep import encoders
from data_prep.__main__ import main as data_prep
from linformer_fairseq import cli
from linformer_fairseq.checkpoints.checkpoint import build, digest, read
from linformer_fairseq.checkpoints.hf_encoders import from_hf_encoder
from linformer_fairseq.commands import convert
from linformer_fairseq.finetuning.glue import find_task, score
from linformer_fairseq.finetuning.train import MODEL, Run, digests_of, finetune
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.inference.sequences import encode, tokenizer_of
from linformer_fairseq.plugin import register
from linformer_fairseq.tables import Table, read_table

TEXTS = ["The projected length, k = 128, isn't   n; naïve façade.", "A second line", "lengths", "n of k " * 9]
CORPUS = [*TEXTS, "lengths and tokens of the second line", "a line of projected tokens"] * 20
N = 80
CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
TRUST = {"trust_remote_code": True}
INPUTS = ("input_ids", "attention_mask")


def write_tokenizer(kind: str, folder: Path) -> None:
    """As the published models have it: WordPiece, byte-level BPE, a sentencepiece model alone, or Unigram."""
    if kind == "bert":
        trained = tokenizers.BertWordPieceTokenizer()
        names = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trained.train_from_iterator(CORPUS, 120, 1, special_tokens=names, show_progress=False)
        trained.save_model(str(folder))
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    elif kind == "roberta":
        trained = tokenizers.ByteLevelBPETokenizer()
        trained.train_from_iterator(CORPUS, 300, 1, special_tokens=list(SPECIAL[:4]), show_progress=False)
        trained.add_special_tokens(["<mask>"])
        trained.save(str(folder / "tokenizer.json"))
    elif kind == "xlm-roberta":
        model = io.BytesIO()
        options = {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=model, **options)
        (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    else:
        names = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
        pieces = sorted({char for text in TEXTS for char in text if char != " "} | {"▁", "▁line", "ength", "▁of"})
        scores = [(name, 0.0) for name in names] + [(piece, -len(names) / len(piece)) for piece in pieces]
        trained = tokenizers.Tokenizer(tokenizers.models.Unigram([*scores, ("<mask>", 0.0)], 3))
        trained.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        trained.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 6), ("<s>", 5))
        trained.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        trained.save(str(folder / "tokenizer.json"))


def shake(model: nn.Module) -> None:
    """Makes every parameter count, token types and layer norms included."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.3 if parameter.dim() == 1 else 0.0, std=0.15)
    model.eval()


def make_source(kind: str, folder: Path, head: str = "ForMaskedLM", **changes: Any) -> Any:
    """A folder of a random model, with a tokenizer trained here; returns the model."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 40, "max_position_embeddings": N + 2, "layer_norm_eps": 1e-5, "vocab_size": 400}
    if kind == "bert":
        sizes |= {"max_position_embeddings": N, "layer_norm_eps": 1e-2, "pad_token_id": 0}
    config = getattr(transformers, f"{CLASSES[kind]}Config")(**sizes | changes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{CLASSES[kind]}{head}")(config)
    shake(model)
    model.save_pretrained(folder)
    write_tokenizer(kind, folder)
    return model


def run(*words: Any) -> None:
    assert convert.main([str(word) for word in words]) == 0


def there(folder: Path, *words: str) -> Path:
    """The exported folder, after the way through a fairseq checkpoint."""
    checkpoint = folder.with_suffix(".pt")
    run("from-bert", folder, checkpoint, *(words or ("--attention", "exact")))
    out = folder.with_name(f"{folder.name}-out")
    run("to-hf", checkpoint, out)
    return out


def ids_of(folder: Path, texts: list[str] = TEXTS) -> dict[str, Tensor]:
    found = AutoTokenizer.from_pretrained(folder, **TRUST)(texts, padding=True, return_tensors="pt")
    return {name: found[name] for name in INPUTS}


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


def add_sentence_transformers(folder: Path, encoder: str = "") -> None:
    kinds = {"0": ("Transformer", encoder), "1": ("Pooling", "1_Pooling"), "2": ("Normalize", "2_Normalize")}
    modules = [
        {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for name, (kind, path) in kinds.items()
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 24, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / encoder / "sentence_bert_config.json").write_text('{"max_seq_length": 30, "do_lower_case": false}')


@pytest.mark.parametrize("encoder", ["", "0_Transformer"])
def test_pooling_and_length_of_sentence_transformers_are_kept(encoder: str, tmp_path: Path) -> None:
    make_source("bert", tmp_path / "a" / encoder, "Model")
    add_sentence_transformers(tmp_path / "a", encoder)
    out = there(tmp_path / "a")
    assert (out / "1_Pooling/config.json").read_bytes() == (tmp_path / "a/1_Pooling/config.json").read_bytes()
    modules = json.loads((out / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    assert 'SentenceTransformer("a-out", trust_remote_code=True)' in (out / "README.md").read_text()
    assert json.loads((out / "sentence_bert_config.json").read_text())["max_seq_length"] == 30
    run("extend", tmp_path / "a.pt", tmp_path / "b.pt", "--max-positions", 2 * N)
    run("to-hf", tmp_path / "b.pt", tmp_path / "b")
    assert json.loads((tmp_path / "b/sentence_bert_config.json").read_text())["max_seq_length"] == 2 * N
    run("from-hf", out, tmp_path / "c.pt")
    run("to-hf", tmp_path / "c.pt", tmp_path / "c")
    names = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "tokenizer_config.json", "vocab.txt")
    assert all((tmp_path / "c" / name).read_bytes() == (out / name).read_bytes() for name in names)


@pytest.mark.parametrize("encoder", ["", "0_Transformer"])
def test_sentence_transformers_gives_equal_vectors(encoder: str, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    make_source("bert", tmp_path / "a" / encoder, "Model")
    add_sentence_transformers(tmp_path / "a", encoder)
    out = there(tmp_path / "a")
    expected = library.SentenceTransformer(str(tmp_path / "a"), device="cpu").encode(TEXTS)
    found = library.SentenceTransformer(str(out), device="cpu", **TRUST)
    assert found.max_seq_length == 30
    np.testing.assert_allclose(found.encode(TEXTS), expected, atol=1e-5)


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


def change_modules(folder: Path, **values: Any) -> None:
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[1] |= values
    path.write_text(json.dumps(modules))


def link(folder: Path) -> None:
    (folder / "vocab.txt").rename(folder.with_name("vocab.txt"))
    (folder / "vocab.txt").symlink_to(folder.with_name("vocab.txt"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (link, "vocab.txt: is a link out of the folder"),
        (lambda f: change_modules(f, type="sentence_transformers.models.CNN"), "module sentence.*CNN cannot be kept"),
        (lambda f: change_modules(f, type="custom.Pooling"), "modules.json: the module custom.Pooling cannot be kept"),
        (lambda f: change_modules(f, path="../other"), "modules.json: its first module must be .* in this folder"),
        (lambda f: (f / "modules.json").write_text("{"), "modules.json: not a list of modules"),
        (lambda f: (f / "1_Pooling/pytorch_model.bin").write_text(""), "only .json and .safetensors files"),
        (lambda f: (f / "vocab.txt").unlink(), "put its tokenizer there, too"),
        (lambda f: (f / "vocab.txt").open("a").write("x\ny\n" * 200), "they do not belong together"),
        (lambda f: (f / "config.json").write_text('{"model_type": "mpnet"}'), "config.json: .* relative positions"),
        (shutil.rmtree, "no such folder; give that of a Hugging Face model"),
    ],
)
def test_other_folders_are_refused_in_a_sentence(
    spoil: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_source("bert", tmp_path / "a", "Model")
    add_sentence_transformers(tmp_path / "a")
    spoil(tmp_path / "a")
    capsys.readouterr()
    words = ["convert", "from-bert", tmp_path / "a", tmp_path / "b.pt", "--attention", "exact"]
    assert cli.main([str(word) for word in words]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("b")]


def test_names_of_foreign_code_are_not_exported(tmp_path: Path) -> None:
    make_source("bert", tmp_path / "a")
    settings = {
        "tokenizer_class": "BertTokenizer",
        "auto_map": {"AutoTokenizer": ["other--code.Slow", "other--code.Fast"]},
    }
    (tmp_path / "a/tokenizer_config.json").write_text(json.dumps(settings))
    out = there(tmp_path / "a")
    assert "other--code" in (tmp_path / "a/tokenizer_config.json").read_text()
    assert not any(b"other--code" in path.read_bytes() for path in out.iterdir())


def test_links_within_the_cache_of_hugging_face_are_followed(tmp_path: Path) -> None:
    cache = tmp_path / "models--x"
    make_source("bert", cache / "snapshots/1", "Model")
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted((cache / "snapshots/1").iterdir())):
        path.rename(cache / f"blobs/{number}")
        path.symlink_to(f"../../blobs/{number}")
    assert from_hf_encoder(cache / "snapshots/1").notes[-1]["conversion"] == "from-bert"


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
