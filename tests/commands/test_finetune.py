"""Fine-tuning on a table and predicting, by the command line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from linformer_fairseq.cli import main

WORDS = "the river garden child teacher book city winter letter".split()


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
