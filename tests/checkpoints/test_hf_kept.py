"""What a folder has besides its model: tokenizer, pooling and normalization; foreign folders are refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from linformer_fairseq import cli
from linformer_fairseq.checkpoints.checkpoint import CONTRASTIVE, read, write
from linformer_fairseq.checkpoints.hf_encoders import from_hf_encoder
from linformer_fairseq.checkpoints.hf_kept import kept_pooling, pooling_of
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.engine import Engine
from linformer_fairseq.inference.sequences import encode, tokenizer_of
from tests.checkpoints.hf_sources import TEXTS, TRUST, N, add_sentence_transformers, make_source, run, there


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


def test_texts_are_cut_where_only_the_tokenizer_says(tmp_path: Path) -> None:
    make_source("bert", tmp_path / "a", "Model")
    add_sentence_transformers(tmp_path / "a")
    # As version 6 of the library writes them.
    settings = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    (tmp_path / "a/sentence_bert_config.json").write_text(json.dumps(settings))
    (tmp_path / "a/tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 12}')
    out = there(tmp_path / "a")
    assert json.loads((out / "sentence_bert_config.json").read_text()) == settings | {"max_seq_length": 12}
    run("extend", tmp_path / "a.pt", tmp_path / "b.pt", "--max-positions", 2 * N)
    run("to-hf", tmp_path / "b.pt", tmp_path / "b")
    assert json.loads((tmp_path / "b/sentence_bert_config.json").read_text())["max_seq_length"] == 2 * N


def test_saved_by_sentence_transformers_and_converted_again(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    make_source("bert", tmp_path / "a", "Model")
    add_sentence_transformers(tmp_path / "a")
    model = library.SentenceTransformer(str(there(tmp_path / "a")), device="cpu", **TRUST)
    model.max_seq_length = 12
    model.save_pretrained(str(tmp_path / "saved"))
    run("from-hf", tmp_path / "saved", tmp_path / "b.pt")
    run("to-hf", tmp_path / "b.pt", tmp_path / "b")
    found = library.SentenceTransformer(str(tmp_path / "b"), device="cpu", **TRUST)
    assert found.max_seq_length == 12
    np.testing.assert_array_equal(found.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("pooling", [{}, {"pooling_mode": "mean"}])
def test_a_model_that_was_trained_on_pairs_has_the_pooling_of_its_training(pooling: Any, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    make_source("bert", tmp_path / "a", "Model")
    add_sentence_transformers(tmp_path / "a")
    if pooling:  # as version 6 of the library writes it
        (tmp_path / "a/1_Pooling/config.json").write_text(json.dumps({"embedding_dimension": 24, **pooling}))
    run("from-bert", tmp_path / "a", tmp_path / "a.pt", "--attention", "exact")
    kept = kept_pooling(tmp_path / "a.tokenizer")
    assert kept == ("mean" if pooling else "first")
    tuned = read(tmp_path / "a.pt").converted({"conversion": CONTRASTIVE, "pooling": kept})
    write(tuned, tmp_path / "b.pt")
    run("to-hf", tmp_path / "b.pt", tmp_path / "b")
    found = library.SentenceTransformer(str(tmp_path / "b"), device="cpu", **TRUST)
    assert found.max_seq_length == N  # what was trained, where the source had 30
    texts = [" ".join(text.split()) for text in TEXTS]
    ids = encode([(text,) for text in texts], tokenizer_of(tuned, None), N)
    np.testing.assert_allclose(found.encode(texts), normalize(Engine(tuned, kept).rows(ids)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mode", "expected"), [("mean", "mean"), ("cls", "first"), ("max", None)])
def test_pooling_that_was_changed_after_training_on_pairs_comes_back(
    mode: str, expected: str | None, tmp_path: Path
) -> None:
    make_source("bert", tmp_path / "a", "Model")
    add_sentence_transformers(tmp_path / "a")
    run("from-bert", tmp_path / "a", tmp_path / "a.pt", "--attention", "exact")
    write(read(tmp_path / "a.pt").converted({"conversion": CONTRASTIVE, "pooling": "mean"}), tmp_path / "b.pt")
    run("to-hf", tmp_path / "b.pt", tmp_path / "b")
    settings = {"embedding_dimension": 24, "pooling_mode": mode}
    (tmp_path / "b/1_Pooling/config.json").write_text(json.dumps(settings))
    run("from-hf", tmp_path / "b", tmp_path / "c.pt")
    assert read(tmp_path / "c.pt").pooling == expected
    run("to-hf", tmp_path / "c.pt", tmp_path / "c")
    if expected is None:
        assert json.loads((tmp_path / "c/1_Pooling/config.json").read_text()) == settings
    else:
        assert pooling_of(tmp_path / "c") == expected


def test_normalization_that_was_removed_after_training_on_pairs_stays_away(tmp_path: Path) -> None:
    make_source("bert", tmp_path / "a", "Model")
    run("from-bert", tmp_path / "a", tmp_path / "a.pt", "--attention", "exact")
    write(read(tmp_path / "a.pt").converted({"conversion": CONTRASTIVE, "pooling": "mean"}), tmp_path / "b.pt")
    run("to-hf", tmp_path / "b.pt", tmp_path / "b")
    path = tmp_path / "b/modules.json"
    for number, kinds in enumerate((["Pooling", "Normalize"], ["Pooling"])):
        path.write_text(json.dumps(json.loads(path.read_text())[: 1 + len(kinds)]))
        run("from-hf", tmp_path / "b", tmp_path / f"{number}.pt")
        run("to-hf", tmp_path / f"{number}.pt", tmp_path / f"{number}")
        modules = json.loads((tmp_path / f"{number}/modules.json").read_text())
        assert [module["type"].split(".")[-1] for module in modules[1:]] == kinds


def test_pooling_that_is_not_trained_here_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "huggingface"
    (folder / "1_Pooling").mkdir(parents=True)
    assert kept_pooling(tmp_path) is None
    add = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    for kinds in (["Pooling"], ["Pooling", "Dense"], []):
        more = [{"path": f"1_{kind}", "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
        (folder / "modules.json").write_text(json.dumps(add + more))
        mode = "mean" if "Dense" in kinds else "lasttoken"
        (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": mode}))
        with pytest.raises(UsageError, match="modules.json: vectors are trained as means or first tokens"):
            kept_pooling(tmp_path)


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
    assert not any(b"other--code" in path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_links_within_the_cache_of_hugging_face_are_followed(tmp_path: Path) -> None:
    cache = tmp_path / "models--x"
    make_source("bert", cache / "snapshots/1", "Model")
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted((cache / "snapshots/1").iterdir())):
        path.rename(cache / f"blobs/{number}")
        path.symlink_to(f"../../blobs/{number}")
    assert from_hf_encoder(cache / "snapshots/1").notes[-1]["conversion"] == "from-bert"
