"""Fine-tuning on a table and predicting, by the command line."""

from __future__ import annotations

import json
import math
import random
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification, AutoTokenizer

from linformer_fairseq.cli import main
from linformer_fairseq.training.progress import parse_line

WORDS = "the river garden child teacher book city winter letter".split()
RARE = "reads likes sees warm cold".split()


def finetune(words: list[str]) -> int:
    return main(["finetune", *words])


def table(path: Path, rows: int, seed: int, score: bool = False) -> Path:
    chance = random.Random(seed)
    lines = ["review\tverdict"]
    for _ in range(rows):
        good = chance.randrange(2)
        words = [*chance.choices(WORDS, k=chance.randint(3, 80)), "good" if good else "bad"]
        lines.append(f"{' '.join(reversed(words))}\t{float(good) if score else ('poor', 'fine')[good]}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("score", [False, True])
def test_from_tables_to_predictions(
    checkpoint: Path, score: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = table(tmp_path / "a.tsv", 520, 1, score), table(tmp_path / "b.tsv", 50, 2, score)
    columns = ["--text-column", "review"]
    words = ["--checkpoint", str(checkpoint), "--train", str(train), "--test", str(test), *columns, "--lr", "2e-3"]
    words += ["--label-column", "verdict", "--out", str(tmp_path / "tuned"), "--batch-size", "16", "--epochs", "4"]
    words += ["--regression"] if score else []
    assert finetune(words) == 0
    result = json.loads((tmp_path / "tuned/result.json").read_text())
    assert result["scores"]["test"]["pearson" if score else "accuracy"] > 85
    assert sum(result["rows"].values()) == 570 and 30 < result["rows"]["dev"] < 80 and result["rows"]["test"] == 50
    printed = capsys.readouterr().out
    assert f"train: {result['longer']['train']:,} rows are longer than the model reads (their head was read)" in printed
    assert "| a | 4" in printed and (tmp_path / "tuned/results.png").exists()
    table(train, 521, 3, score)  # the same file with other rows
    assert finetune(words) == 1
    assert "holds the result of other settings (dev, train changed)" in capsys.readouterr().err

    (tmp_path / "new.tsv").write_text("review\ngood river garden\nbad city winter\n")
    predict = ["predict", "--checkpoint", str(tmp_path / "tuned/model.pt"), "--input", str(tmp_path / "new.tsv")]
    assert finetune([*predict, *columns, "--out", str(tmp_path / "found.tsv")]) == 0
    found = (tmp_path / "found.tsv").read_text().splitlines()
    assert found[0] == "prediction"
    assert float(found[1]) > float(found[2]) + 0.5 if score else found[1:] == ["fine", "poor"]
    assert finetune([*predict, *columns, "--out", str(tmp_path / "found.tsv")]) == 1


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ("a\t0\nb\tnan\n", ["--regression"], "a.tsv: row 2 has the score nan, which is no number"),
        ("a\t0\nb\t1\n", ["--metric", "pearson"], "--metric pearson: is not for such labels; choose from accuracy"),
        ("a\t0\nb\t1\n", ["--multi-label", "--metric", "matthews"], "--metric matthews: is not for such labels"),
        ("a\t0\nb\t1\n", ["--regression", "--balanced"], "--balanced: numbers have no classes"),
        ("a\t0\nb\t1\n", ["--lr", "1", "1"], "--lr: 1.0 is there twice; name each once"),
        ("a\tyes\nb\tyes\n", [], "all rows have the label 'yes'; two classes are needed"),
        ("a\t0.5\nb\t1\n", [], "labels such as 0.5 are scores, not classes; use --regression"),
        ("a\t0.5\nb\tmuch\n", ["--regression"], "a score is not a number"),
        ("a\t0\nb\t1\n", ["--label-column", "class"], "no column class; it has text, label"),
        ("a\t0\nb\t1\n", ["--text-column", "text", "text", "text"], "one or two columns, not 3"),
        ("a\t0\nb\t1\n", ["--checkpoint", "absent.pt"], "absent.pt: no such file"),
        ("a\t0\nb\t1\n", ["--dev", "unlabelled.tsv"], "unlabelled.tsv: no column label; it has text"),
        ("a\t0\nb\t1\n", ["--dev", "other.tsv"], "other.tsv: row 2 has the label '2', which is none of 0, 1"),
        ("a\t0\nb\t1\n", ["--dev-share", "0.5", "--dev", "other.tsv"], "--dev-share 0.5: has no meaning with --dev"),
        ("a\t0\nb\t1\n", ["--label-column", "text"], "--text-column text: a column can be one text only"),
    ],
)
def test_wrong_tables_and_flags_are_refused(
    rows: str,
    flags: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"text\tlabel\n{rows}")
    monkeypatch.chdir(tmp_path)
    Path("unlabelled.tsv").write_text("text\na\n")
    Path("other.tsv").write_text("text\tlabel\na\t1\nb\t2\n")
    words = ["--checkpoint", str(checkpoint), "--train", str(path), "--out", str(tmp_path / "out")]
    assert finetune([*words, *flags]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "out").exists()


def test_other_lengths_are_had_before(capsys: pytest.CaptureFixture[str]) -> None:
    for command, flag in product(("finetune", "glue"), ("--max-positions", "--projected-length")):
        with pytest.raises(SystemExit):
            main([command, flag, "64"])
        message = f"{flag}: fine-tuning keeps the model's; change it before, with `linformer convert extend SOURCE"
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_several_labels_settings_and_an_early_end(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(0)
    lines = []
    for _ in range(400):
        labels = [name for name in ("good", "bad") if chance.randrange(2)]
        text = [*chance.choices(WORDS, k=4), *labels]
        chance.shuffle(text)
        lines.append(json.dumps({"text": " ".join(text), "label": labels}) + "\n")
    (tmp_path / "a.jsonl").write_text("".join(lines[:350]))
    (tmp_path / "b.jsonl").write_text("".join(lines[350:]))
    words = ["--checkpoint", str(checkpoint), "--train", str(tmp_path / "a.jsonl"), "--dev", str(tmp_path / "b.jsonl")]
    words += ["--multi-label", "--balanced", "--metric", "macro-f1", "auc", "--lr", "3e-3", "1e-9", "--patience", "2"]
    assert finetune([*words, "--batch-size", "10", "--epochs", "6", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "out/lr0.003/model.pt is of the median run of the setting that was chosen on the dev rows" in printed
    (row,) = json.loads((tmp_path / "out/results.json").read_text())
    assert row["setting"] == "lr 0.003, batch 10, epochs 6, patience 2, balanced"
    assert row["scores"]["macro-f1"][0] > 80 and row["linear"]["macro-f1"] > 80 and row["constant"]["auc"] == 50
    assert (tmp_path / "out/settings.md").read_text().count("macro-f1") == 2
    log = (tmp_path / "out/lr1e-09/train.log").read_text()
    assert "early stop since valid performance hasn't improved" in log and '"valid_macro-f1"' in log
    found = [line.split("\t") for line in (tmp_path / "out/lr0.003/dev.tsv").read_text().splitlines()[1:]]
    assert {label for label, _ in found} == {"good|bad", "good", "bad", ""}
    assert {prediction for _, prediction in found} <= {"bad|good", "good", "bad", ""}

    tuned = ["--checkpoint", str(tmp_path / "out/lr0.003/model.pt"), "--input", str(tmp_path / "b.jsonl")]
    assert finetune(["predict", *tuned, "--out", str(tmp_path / "found.tsv")]) == 0
    assert (tmp_path / "found.tsv").read_text().splitlines()[1:] == [prediction for _, prediction in found]
    assert main(["encode", *tuned, "--predict", "--out", str(tmp_path / "found.parquet")]) == 0
    rows = pq.read_table(tmp_path / "found.parquet").to_pylist()
    assert [row["label"] for row in rows] == [prediction for _, prediction in found]
    for row in rows:
        names = [name for name, share in zip(("bad", "good"), row["scores"], strict=True) if share > 0.5]
        assert row["label"] == "|".join(names)
    assert main(["convert", "to-hf", str(tmp_path / "out/lr0.003/model.pt"), str(tmp_path / "hf")]) == 0
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and config["label2id"] == {"bad": 0, "good": 1}


def heads(command: str, checkpoint: Path, folder: Path, suffix: str, *more: str) -> list[str]:
    paths = [word for name in ("train", "dev") for word in (f"--{name}", str(folder / f"{name}{suffix}"))]
    return [command, "--checkpoint", str(checkpoint), *paths, "--out", str(folder / "out"), *more]


def test_words_get_tags_and_the_folder_their_names(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(0)
    for name, count in (("train", 200), ("dev", 40)):
        sentences = []
        for _ in range(count):
            words = [*chance.choices(WORDS, k=3), *chance.choice((["good", "book"], ["bad"])), "the"]
            tags = ["O"] * 3 + (["B-A", "I-A"] if words[3] == "good" else ["B-B"]) + ["O"]
            sentences.append("".join(f"{word} {tag}\n" for word, tag in zip(words, tags, strict=True)))
        (tmp_path / f"{name}.conll").write_text("\n".join(sentences))
    words = heads("tokens", checkpoint, tmp_path, ".conll", "--lr", "3e-3", "1e-9", "--batch-size", "8")
    words += ["--epochs", "3", "--patience", "1"]
    assert finetune(words) == 0
    (row,) = json.loads((tmp_path / "out/results.json").read_text())
    assert row["scores"]["entity-f1"][0] > 90 and row["constant"]["entity-f1"] == 0 < row["constant"]["accuracy"]
    assert row["setting"] == "lr 0.003, batch 8, epochs 3, patience 1" and row["rows"] == {"train": 200, "dev": 40}
    assert (tmp_path / "out/settings.md").read_text().count("entity-f1") == 2
    folder = tmp_path / "out/lr0.003/model"
    model = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True).eval()
    assert model.config.id2label == {0: "O", 1: "B-A", 2: "B-B", 3: "I-A"}
    found = AutoTokenizer.from_pretrained(folder)("river river river bad the", return_tensors="pt")
    firsts = [found.word_to_tokens(word).start for word in range(5)]
    tags = [model.config.id2label[int(i)] for i in model(**found).logits[0].argmax(-1)[firsts]]
    assert tags == ["O", "O", "O", "B-B", "O"]
    kept = (tmp_path / "out/lr0.003/dev.conll").read_text()
    assert [line.split()[:2] for line in kept.splitlines()] == [
        line.split() for line in (tmp_path / "dev.conll").read_text().splitlines()
    ]
    monkeypatch.setattr("linformer_fairseq.finetuning.heads.Steps", None)  # finished runs are left alone
    assert finetune(words) == 0


def test_answers_are_found(checkpoint: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    for name, count in (("train", 200), ("dev", 30)):
        paragraphs = []
        for i in range(count):
            before, after = (" ".join(chance.choices(WORDS, k=chance.randrange(2, 9))) for _ in range(2))
            answers = [{"text": "good", "answer_start": len(before) + 1}]
            qas = [{"id": str(i), "question": "letter", "answers": answers}]
            paragraphs.append({"context": f"{before} good {after}", "qas": qas})
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    words = heads("answers", checkpoint, tmp_path, ".json", "--lr", "3e-3", "--batch-size", "8", "--epochs", "3")
    assert finetune(words) == 0
    (row,) = json.loads((tmp_path / "out/results.json").read_text())
    assert row["scores"]["exact-match"][0] > 80 and row["constant"]["f1"] == 0
    found = json.loads((tmp_path / "out/dev.json").read_text())
    assert len(found) == 30 and list(found.values()).count("good") == row["scores"]["exact-match"][0] * 0.3
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out/model", trust_remote_code=True)
    assert not model.qa_outputs.weight.eq(0).all()


JUDGED = ("qrels", "queries", "corpus")


def pairs(path: Path, rows: int, seed: int) -> Path:
    """A word, a text in which its partner stands, and as a hard negative one with the word itself."""
    chance, partners = random.Random(seed), dict(zip(WORDS, WORDS[4:] + WORDS[:4], strict=True))
    lines = ["query\tpassage\tnegative"]
    for _ in range(rows):
        word = chance.choice(WORDS)
        texts = [f"{chance.choice(RARE)} {one} {chance.choice(RARE)}" for one in (partners[word], word)]
        lines.append("\t".join([word, *texts]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_queries_find_their_passages_and_sentence_transformers_gives_the_same_vectors(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, dev = pairs(tmp_path / "a.tsv", 160, 1), pairs(tmp_path / "b.tsv", 40, 2)
    dev.write_text(dev.read_text() + "\tnobody asks for this\t\n")
    words = ["pairs", "--checkpoint", str(checkpoint), "--dev", str(dev), "--out", str(tmp_path / "out")]
    words += ["--text-column", "query", "passage", "negative"]
    for name, texts in (("queries", ["river"]), ("corpus", ["a book", "the river", "a river in winter"])):
        rows = (json.dumps({"_id": str(number), "title": "", "text": text}) for number, text in enumerate(texts))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n0\t1\t1\n0\t2\t2\n")
    judged = [f"--{name}={tmp_path}/{name}.{end}" for name, end in zip(JUDGED, ("tsv", "jsonl", "jsonl"), strict=True)]
    assert finetune([*words[:-1], "--pooling", "first", *judged]) == 0
    alone = capsys.readouterr().out
    assert alone.splitlines()[0].startswith("|  |  | ndcg@10 | recall@10 | recall@100 |") and "| dev | BM25 |" in alone
    graded = 100 * (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))  # the shorter text comes first
    assert f"| qrels | BM25 | {graded:.1f} | 100.0 | 100.0 |" in alone
    assert (tmp_path / "out/results.md").read_text() == alone.removesuffix("\n")
    words += ["--train", str(train), "--lr", "3e-3", "--batch-size", "16", "--chunk-rows", "8"]
    assert finetune([*words, "--epochs", "3", "--layer-lr-decay", "0.9"]) == 0
    saved = torch.load(tmp_path / "out/checkpoints/checkpoint_last.pt", weights_only=False)
    assert max(group["lr_scale"] for group in saved["last_optimizer_state"]["param_groups"]) == 1
    assert min(group["lr_scale"] for group in saved["last_optimizer_state"]["param_groups"]) < 0.9
    log = (tmp_path / "out/train.log").read_text().splitlines()
    found = [figures["ndcg@10"] for line in log if (figures := parse_line(line)) and figures["split"] == "valid"]
    best = torch.load(tmp_path / "out/checkpoints/checkpoint_best.pt", weights_only=False)["extra_state"]
    assert len(found) == 3 and best["best"] == max(found) == best["val_loss"]
    (row,) = json.loads((tmp_path / "out/results.json").read_text())
    assert row["scores"]["ndcg@10"][0] > max(row["constant"]["ndcg@10"], row["linear"]["ndcg@10"]) + 20
    printed = capsys.readouterr().out
    assert "| before training | BM25 | median (range) |" in printed and "out/" not in printed.splitlines()[-1]
    tuned = tmp_path / "out/model.pt"
    assert main(["convert", "to-hf", str(tuned), str(tmp_path / "hf")]) == 0

    texts = ["the river reads", "a teacher " * 60, "winter"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    encode = ["encode", "--checkpoint", str(tuned), "--input", str(tmp_path / "texts.jsonl")]
    assert main([*encode, "--out", str(tmp_path / "v.parquet"), "--device", "cpu"]) == 0
    ours = np.array(pq.read_table(tmp_path / "v.parquet")["vector"].to_pylist())
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    for folder in (tmp_path / "out/model", tmp_path / "hf"):
        theirs = library.SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
        np.testing.assert_allclose(theirs.encode(texts), ours, rtol=0, atol=1e-6)
        assert theirs.max_seq_length == 64
    assert "feature-extraction" in (tmp_path / "hf/README.md").read_text()


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ("a\tb\n", ["--text-column", "query"], "--text-column query: name a query, its passage and others, each once"),
        ("a\tb\n", ["--text-column", "query", "query"], "name a query, its passage and others, each once"),
        ("a\t\n", [], "a.tsv: row 1 has no text in column passage"),
        ("\tb\n", [], "a.tsv: row 1 has no text in column query"),
        ("a\tb\n", ["--text-column", "query", "text"], "no column text; it has query, passage"),
        ("a\tb\n", ["--dev", "nobody.tsv"], "nobody.tsv: has no row with a query"),
        ("a\tb\n", ["--qrels", "a.tsv"], "--qrels, --queries, --corpus: belong together; name all three or none"),
        ("a\tb\n", [f"--{name}=a.tsv" for name in JUDGED], "a.tsv: line 1 is not `query 0 document grade`"),
    ],
)
def test_wrong_pairs_are_refused(
    rows: str,
    flags: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.tsv").write_text(f"query\tpassage\n{rows}")
    Path("b.tsv").write_text("query\tpassage\na\tb\n")
    Path("nobody.tsv").write_text("query\tpassage\n\tb\n")
    words = ["pairs", "--checkpoint", str(checkpoint), "--train", "a.tsv", "--dev", "b.tsv", "--out", "out", *flags]
    assert finetune(words) == 1
    assert message in capsys.readouterr().err.splitlines()[-1] and not Path("out").exists()
