"""A grid over tasks and seeds: restarted after a kill, done once, and its answers in the server's form."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from linformer_fairseq.cli import main
from linformer_fairseq.finetuning.glue import find_task, read_labelled

ROOT = Path(__file__).parents[2]
WORDS = "the river garden child teacher book city winter letter".split()


def run_glue(words: list[str]) -> int:
    return main(["glue", *words])


def pearson(labels: list[str], found: list[str]) -> float:
    return float(pearsonr([float(x) for x in labels], [float(x) for x in found])[0])


def spearman(labels: list[str], found: list[str]) -> float:
    return float(spearmanr([float(x) for x in labels], [float(x) for x in found])[0])


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
    whole, killed = ([*arguments(checkpoint, glue, tmp_path / out), "--seeds", "1"] for out in ("whole", "killed"))
    assert run_glue(whole) == 0
    command = [sys.executable, str(ROOT / "recipes/finetune_glue.py"), *killed]
    first = tmp_path / "killed/RTE/lr0.001-batch16-seed1/result.json"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not first.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    stamp = first.stat().st_mtime_ns
    assert not (tmp_path / "killed/results.md").exists()
    assert run_glue(killed) == 0
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

    monkeypatch.setattr("linformer_fairseq.finetuning.train.run_logged", None)  # a finished grid runs nothing
    assert run_glue(whole) == 0


@pytest.mark.slow
def test_commands_and_their_jobs_share_a_grid(checkpoint: Path, glue: Path, tmp_path: Path) -> None:
    words = [*arguments(checkpoint, glue, tmp_path), "--epochs", "1", "--seeds", "1"]
    command = [sys.executable, str(ROOT / "recipes/finetune_glue.py"), *words]
    processes = [subprocess.Popen([*command, *more], cwd=ROOT) for more in ([], ["--jobs", "2"])]
    assert [process.wait() for process in processes] == [0, 0]
    for task in ("RTE", "STS-B"):
        log = (tmp_path / task / "lr0.001-batch16-seed1/train.log").read_text()
        assert log.count("done training") == 1  # by one of the processes
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [len(row["scores"][metric]) for row, metric in zip(rows, ("accuracy", "pearson"), strict=True)] == [1, 1]


METRICS = {
    "CoLA": {"matthews": matthews_corrcoef, "accuracy": accuracy_score},
    "SST-2": {"accuracy": accuracy_score},
    "MRPC": {"accuracy": accuracy_score, "f1": lambda labels, found: f1_score(labels, found, pos_label="1")},
    "STS-B": {"pearson": pearson, "spearman": spearman},
    "QNLI": {"accuracy": accuracy_score},
    "RTE": {"accuracy": accuracy_score},
}
ROWS = {  # of dev and test in the original download
    "CoLA": (1043, 1063),
    "SST-2": (872, 1821),
    "MRPC": (408, 1725),
    "STS-B": (1500, 1379),
    "QNLI": (5463, 5463),
    "RTE": (277, 3000),
}
COLUMNS = {"CoLA": 1, "SST-2": 1, "MRPC": 0, "STS-B": 9, "QNLI": 3, "RTE": 3}  # of the label in dev.tsv
ANSWERS = {"QNLI": {"entailment", "not_entailment"}, "RTE": {"entailment", "not_entailment"}}


@pytest.mark.slow
@pytest.mark.parametrize("task", list(METRICS))
def test_real_sets_are_scored_and_answered_in_full(
    task: str, checkpoint: Path, tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    """Few rows are learnt from; dev and test are the original ones, read here once more and scored on their own."""
    with tarfile.open(shared_data(f"glue/{task}.tar.xz")) as tar:
        tar.extractall(tmp_path, filter="data")
    folder = tmp_path / task
    source = folder / ("dev.tsv" if task == "QNLI" else "train.tsv")  # QNLI's train set is not in that data
    (folder / "train.tsv").write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[:65]))
    words = ["--checkpoint", str(checkpoint), "--glue-dir", str(tmp_path), "--tasks", task, "--seeds", "1", "--test"]
    assert run_glue([*words, "--epochs", "1", "--lr", "1e-3", "--out", str(tmp_path / "out")]) == 0

    lines = (folder / "dev.tsv").read_text("utf-8-sig").rstrip("\n").split("\n")[task != "CoLA" :]
    labels = [line.split("\t")[COLUMNS[task]] for line in lines]
    kept = next((tmp_path / "out" / task).glob("*/dev.tsv")).read_text().splitlines()[1:]
    predictions = [line.split("\t")[1] for line in kept]
    assert len(predictions) == len(labels) == ROWS[task][0]
    (row,) = json.loads((tmp_path / "out/results.json").read_text())
    for name, metric in METRICS[task].items():
        assert row["scores"][name] == [pytest.approx(100 * metric(labels, predictions), abs=1e-9)]

    with zipfile.ZipFile(tmp_path / "out/submission.zip") as archive:
        assert archive.namelist() == [f"{task}.tsv"]
        header, *answers = archive.read(f"{task}.tsv").decode().splitlines()
    assert header == "index\tprediction" and len(answers) == ROWS[task][-1]
    assert [int(line.split("\t")[0]) for line in answers] == list(range(ROWS[task][-1]))
    given = {line.split("\t")[1] for line in answers}
    assert all(0 <= float(value) <= 5 for value in given) if task == "STS-B" else given <= ANSWERS.get(task, {"0", "1"})


@pytest.mark.slow
def test_mnli_is_scored_twice_and_answers_the_diagnostic_set(checkpoint: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    (tmp_path / "MNLI").mkdir()
    for split, rows in (("train", 48), *((f"{s}_{m}", 9) for s in ("dev", "test") for m in ("matched", "mismatched"))):
        label = "" if split.startswith("test") else "\tgold_label"
        lines = [f"index\tsentence1\tsentence2{label}"]
        for index in range(rows):
            value = chance.choice(("neutral", "entailment", "contradiction"))
            lines.append(f"{index}\t{chance.choice(WORDS)}\t{value[:3]}" + (f"\t{value}" if label else ""))
        (tmp_path / f"MNLI/{split}.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "diagnostic").mkdir()
    (tmp_path / "diagnostic/diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n1\tc\td\n")
    words = ["--checkpoint", str(checkpoint), "--glue-dir", str(tmp_path), "--tasks", "MNLI", "--seeds", "1", "--test"]
    assert run_glue([*words, "--epochs", "1", "--out", str(tmp_path / "out")]) == 0
    (row,) = json.loads((tmp_path / "out/results.json").read_text())
    assert list(row["scores"]) == ["dev_matched accuracy", "dev_mismatched accuracy"]
    with zipfile.ZipFile(tmp_path / "out/submission.zip") as archive:
        assert archive.namelist() == ["AX.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"]
        assert [len(archive.read(name).splitlines()) for name in archive.namelist()] == [3, 10, 10]


def test_every_file_is_read_before_anything_is_trained(
    checkpoint: Path, glue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(checkpoint, glue, tmp_path / "out")
    words[words.index("rte,STSB")] = "RTE,QNLI"
    assert run_glue(words) == 1
    assert f"{glue}/QNLI/train.tsv: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert len(read_labelled(glue, find_task("RTE"))["dev"]) == 33
