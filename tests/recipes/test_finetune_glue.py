"""A grid over tasks and seeds: restarted after a kill, done once, and its answers in the server's form."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import finetune_glue
import pytest
from finetuning.glue import read_split

ROOT = Path(__file__).parents[2]
WORDS = "the river garden child teacher book city winter letter".split()


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small tasks in GLUE's form: whether, or how much, two sentences share their last word."""
    folder = tmp_path_factory.mktemp("glue")
    chance = random.Random(0)
    for task, columns in (("RTE", "index\tsentence1\tsentence2"), ("STS-B", "index\tsentence1\tsentence2")):
        (folder / task).mkdir()
        for split, rows in (("train", 120), ("dev", 33), ("test", 21)):
            label = "" if split == "test" else "\tscore" if task == "STS-B" else "\tlabel"
            lines = [columns + label]
            for index in range(rows):
                same = chance.randrange(2)
                first, second = (" ".join(chance.choices(WORDS, k=4)) for _ in range(2))
                value = f"{5.0 * same:.3f}" if task == "STS-B" else ("not_entailment", "entailment")[same]
                end = "good" if same else "bad"
                lines.append(f"{index}\t{first}\t{second} {end}" + (f"\t{value}" if label else ""))
            (folder / task / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def arguments(checkpoint: Path, glue: Path, out: Path) -> list[str]:
    words = ["--checkpoint", str(checkpoint), "--glue-dir", str(glue), "--tasks", "rte,STSB", "--seeds", "2"]
    return [*words, "--epochs", "2", "--lr", "1e-3", "--batch-size", "16", "--test", "--out", str(out)]


@pytest.mark.slow
def test_a_killed_grid_ends_with_the_same_table_and_is_done_once(
    checkpoint: Path, glue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finetune_glue.main(arguments(checkpoint, glue, tmp_path / "whole")) == 0
    command = [
        sys.executable,
        str(ROOT / "recipes/finetune_glue.py"),
        *arguments(checkpoint, glue, tmp_path / "killed"),
    ]
    first = tmp_path / "killed/RTE/lr0.001-batch16-seed1/result.json"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not first.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    stamp = first.stat().st_mtime_ns
    assert not (tmp_path / "killed/results.md").exists()
    assert finetune_glue.main(arguments(checkpoint, glue, tmp_path / "killed")) == 0
    assert first.stat().st_mtime_ns == stamp
    for name in ("results.md", "results.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    rows = json.loads((tmp_path / "whole/results.json").read_text())
    assert [(row["task"], list(row["scores"]), row["rows"]["dev"]) for row in rows] == [
        ("RTE", ["accuracy"], 33),
        ("STS-B", ["pearson", "spearman"], 33),
    ]
    with zipfile.ZipFile(tmp_path / "whole/submission.zip") as archive:
        answers = archive.read("RTE.tsv").decode().splitlines()
        scores = [float(line.split("\t")[1]) for line in archive.read("STS-B.tsv").decode().splitlines()[1:]]
    assert len(answers) == 22 and {line.split("\t")[1] for line in answers[1:]} <= {"entailment", "not_entailment"}
    assert len(scores) == 21 and all(0 <= value <= 5 for value in scores)

    monkeypatch.setattr("finetuning.train.run_logged", None)  # a finished grid runs nothing
    assert finetune_glue.main(arguments(checkpoint, glue, tmp_path / "whole")) == 0


def test_every_file_is_read_before_anything_is_trained(
    checkpoint: Path, glue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(checkpoint, glue, tmp_path / "out")
    words[words.index("rte,STSB")] = "RTE,QNLI"
    assert finetune_glue.main(words) == 1
    assert f"{glue}/QNLI/train.tsv: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert len(read_split(glue, finetune_glue.find_task("RTE"), "dev")) == 33
