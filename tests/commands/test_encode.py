"""From files of documents to a file of vectors or predictions, by the command line, killed and not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, read, write
from linformer_fairseq.checkpoints.names import DEFAULT_HEAD
from linformer_fairseq.cli import main
from linformer_fairseq.inference import encoding, sequences
from linformer_fairseq.inference.encoding import DocumentEncoder
from linformer_fairseq.inference.engine import Engine
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.inference.sequences import tokenizer_of
from linformer_fairseq.io import shards

REPOSITORY = Path(__file__).resolve().parents[2]
WORDS = "the river garden child teacher book city winter letter".split()
EMPTY = (3, 17, *range(24, 32))  # rows without text: single ones, and a whole window


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 documents of 1 to 150 words, in row groups of 20."""
    chance = random.Random(0)
    texts: list[str | None] = [" ".join(chance.choices(WORDS, k=chance.randint(1, 150))) for _ in range(50)]
    for row in EMPTY:
        texts[row] = None if row % 2 else "  "
    path = tmp_path_factory.mktemp("documents") / "docs.parquet"
    table = pa.table({"id": [f"d{i}" for i in range(50)], "text": texts, "n": [[i, i] for i in range(50)]})
    pq.write_table(table, path, row_group_size=20)
    return path


@pytest.fixture
def command(checkpoint: Path, documents: Path, tmp_path: Path) -> list[str]:
    words = ["--checkpoint", str(checkpoint), "--input", str(documents), "--out", str(tmp_path / "out.parquet")]
    return [*words, "--device", "cpu", "--window", "8", "--batch-tokens", "500", "--keep-columns", "id", "n"]


def encode(words: list[str]) -> int:
    return main(["encode", *words])


@torch.inference_mode()
def vector(checkpoint: Path, text: str) -> np.typing.NDArray[np.float32]:
    """Of one document by itself, its chunks averaged by their tokens."""
    source = read(checkpoint)
    ids, _ = tokenizer_of(source, None).encode([" ".join(text.split())])
    model = build(source)
    parts = np.array_split(ids.astype(np.int64), -(-len(ids) // 62))
    features = [model(torch.tensor([[0, *part, 2]]), features_only=True)[0][0] for part in parts]
    found = [part.mean(0).numpy() * len(part) for part in features]
    total: np.typing.NDArray[np.float32] = np.sum(found, axis=0) / (len(ids) + 2 * len(parts))
    return total


def test_vectors_are_in_the_order_of_the_documents(
    command: list[str], checkpoint: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode([*command, "--keep", "chunks"]) == 0
    printed = capsys.readouterr()
    assert "50 documents, " in printed.out and "10 without text (null)" in printed.out
    assert "longer than the model's 64 tokens (read in chunks)" in printed.out and " tokens/s" in printed.out
    assert "50/50" in printed.err.replace("50.0", "50")
    found, source = pq.read_table(tmp_path / "out.parquet"), pq.read_table(documents)
    assert found.schema.field("vector").type == pa.list_(pa.float32(), 128)
    assert found.column_names == ["id", "n", "vector"]
    assert found.column("id").equals(source.column("id")) and found.column("n").equals(source.column("n"))
    for row, (text, values) in enumerate(
        zip(source.column("text").to_pylist(), found.column("vector").to_pylist(), strict=True)
    ):
        if row in EMPTY:
            assert values is None
        else:
            np.testing.assert_allclose(values, vector(checkpoint, text), rtol=0, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_documents_of_which_none_has_text(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"text": pa.array(["", None, "  "], pa.string())}), tmp_path / "empty.parquet")
    monkeypatch.setattr(shards.time, "monotonic", lambda: 1.0)  # too fast for the clock
    words = [*command, "--input", str(tmp_path / "empty.parquet"), "--window", "2"]
    assert encode(words[: words.index("--keep-columns")] + words[words.index("--keep-columns") + 3 :]) == 0
    assert pq.read_table(tmp_path / "out.parquet")["vector"].to_pylist() == [None] * 3


def test_a_finished_output_is_left_alone_and_another_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.parquet"
    assert encode(command) == 0
    before = (out.stat().st_mtime_ns, out.stat().st_ino)
    assert encode([*command, "--threads", "1"]) == 0  # which changes no value
    assert "out.parquet: 50 documents" in capsys.readouterr().out
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == before
    content = bytearray(whole := out.read_bytes())
    content[len(content) // 3] ^= 1
    out.write_bytes(content)
    assert encode(command) == 0
    assert "out.parquet is damaged, and made again" in capsys.readouterr().out and out.read_bytes() == whole
    other = [*command, "--pooling", "max", "--vectors", "float16"]
    assert encode(other) == 1
    assert "holds the result of other settings (--pooling, --vectors changed)" in capsys.readouterr().err
    assert encode([*other, "--force"]) == 0
    assert pq.read_schema(out).field("vector").type == pa.list_(pa.float16(), 128)
    out.write_text("mine")
    assert encode(command) == 1
    assert "is not an output of `linformer encode`" in capsys.readouterr().err and out.read_text() == "mine"


def start(command: list[str], code: str = "") -> subprocess.Popen[bytes]:
    """The command as a process of its own; `code` runs first."""
    code = f"import sys, time; from linformer_fairseq import cli; {code}\nsys.exit(cli.main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, "encode", *command, "--threads", "1"], env=environment)


def test_a_killed_command_is_resumed(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*command, "--threads", "1"]
    assert encode(command) == 0
    out, parts = tmp_path / "out.parquet", tmp_path / ".out.parquet.parts"
    wanted = out.read_bytes()
    out.unlink()
    # It computes two windows and hangs in the third, to be killed there.
    slow = "import linformer_fairseq.inference.encoding as e; columns = e.DocumentEncoder.columns; calls = []; "
    slow += (
        "e.DocumentEncoder.columns = lambda *a: (calls.append(a), time.sleep(60 * (len(calls) > 2)), columns(*a))[2]"
    )
    with start(command, slow) as process:
        while len(list(parts.glob(".work/0*.json"))) < 2 or not list(parts.glob(".work/0*.claim")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    assert encode([*command, "--pooling", "max"]) == 1
    assert "holds the unfinished work of other settings (--pooling changed" in capsys.readouterr().err
    computed = []
    columns = DocumentEncoder.columns
    monkeypatch.setattr(DocumentEncoder, "columns", lambda *a: (computed.append(a), columns(*a))[1])
    assert encode(command) == 0
    assert len(computed) == 5  # of 7 windows
    assert out.read_bytes() == wanted and not parts.exists()
    assert encode(command) == 0 and len(computed) == 5


def test_an_output_that_was_moved_away_after_a_kill_is_made_again(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:  # killed between the output and the removal of its parts
        patched.setattr(encoding, "remove", lambda _: None)
        assert encode(command) == 0
    made = (tmp_path / "out.parquet").rename(tmp_path / "moved.parquet")
    assert encode(command) == 0
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(made))
    assert {path.name for path in tmp_path.iterdir()} == {"moved.parquet", "out.parquet"}


@pytest.mark.slow
def test_several_commands_and_processes_share_the_windows(command: list[str], documents: Path, tmp_path: Path) -> None:
    table = pq.read_table(documents, columns=["id", "n", "text"])
    source = tmp_path / "docs.jsonl"  # another format, which is copied before it is shared
    source.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    command = [*command, "--input", str(source), "--window", "2"]
    processes = [start([*command, "--workers", "2"]), start(command), start(command)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir() if path != source] == ["out.parquet"]
    assert encode([*command, "--threads", "1", "--out", str(tmp_path / "alone.parquet")]) == 0
    assert (tmp_path / "alone.parquet").read_bytes() == (tmp_path / "out.parquet").read_bytes()


def test_a_broken_input_leaves_nothing_behind(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "docs.tsv"
    broken.write_text("id\tn\ttext\na\t1\tone\nb\n")
    assert encode([*command, "--input", str(broken)]) == 1
    assert "docs.tsv: row 2 has 1 columns instead of 3" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["docs.tsv"]


def test_unfinished_work_of_other_settings_is_replaced_by_force(command: list[str], tmp_path: Path) -> None:
    work = tmp_path / ".out.parquet.parts/.work"
    work.mkdir(parents=True)
    (work / "encode.settings").write_text(json.dumps({"settings": {"--pooling": "max"}}))
    (work / "000000000000.json").write_text("{}")
    assert encode(command) == 1
    assert encode([*command, "--force"]) == 0
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 50


def test_predictions_are_those_of_the_engine(
    command: list[str], checkpoint: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = read(checkpoint)
    model = build(source)
    torch.manual_seed(1)
    model.register_classification_head(DEFAULT_HEAD, num_classes=3)
    labels = Labels(("no", "yes", "perhaps"), 1, "chunks")
    tuned = Checkpoint(model.state_dict(), source.model, source.task, 3, [labels.note(source.data)])
    write(tuned, tmp_path / "model.pt")
    command = [*command, "--predict", "--checkpoint", str(tmp_path / "model.pt")]
    assert encode(command) == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["id", "n", "label", "scores"]
    texts = pq.read_table(documents).column("text").to_pylist()
    some = [i for i in range(50) if i not in EMPTY]
    rows = sequences.encode([(texts[i],) for i in some], tokenizer_of(tuned, None), 64, "chunks")
    logits = Engine(tuned, DEFAULT_HEAD).rows(rows)
    wanted = [labels.classes[i] for i in logits.argmax(1)]
    assert [found["label"][i].as_py() for i in some] == wanted and found["label"].null_count == len(EMPTY)
    scores = np.array([found["scores"][i].as_py() for i in some])
    np.testing.assert_allclose(scores, torch.from_numpy(logits).softmax(1), atol=1e-5)
    assert encode([*command, "--keep", "head"]) == 1
    assert "--keep: with --predict, the checkpoint determines it" in capsys.readouterr().err


def test_scores_of_a_regression(command: list[str], checkpoint: Path, tmp_path: Path) -> None:
    source = read(checkpoint)
    model = build(source)
    model.register_classification_head(DEFAULT_HEAD, num_classes=1)
    note = Labels((), 1).note(source.data)
    write(Checkpoint(model.state_dict(), source.model, source.task, 3, [note]), tmp_path / "model.pt")
    assert encode([*command, "--predict", "--checkpoint", str(tmp_path / "model.pt")]) == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.field("score").type == pa.float32() and found["score"].null_count == len(EMPTY)


@pytest.mark.parametrize("where", ["docs.parquet", "docs/vectors.parquet"])
def test_an_output_among_the_inputs_is_refused(
    where: str, command: list[str], documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / where.split("/")[0]
    if given.suffix:
        shutil.copyfile(documents, given)
    else:
        shutil.copytree(documents.parent, given)
    for force in ([], ["--force"]):
        before = sorted(tmp_path.rglob("*"))
        assert encode([*command, "--input", str(given), "--out", str(tmp_path / where), *force]) == 1
        assert f"--out {tmp_path / where}: " in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--predict"], "--checkpoint was not fine-tuned"),
        (["--text-column", "body"], "no column body; it has id, text, n"),
        (["--text-column", "n"], "not text; --text-column must name a column of strings"),
        (["--text-column", "text", "text", "text"], "--text-column: one or two columns, not 3"),
        (["--text-column", "text", "id", "--keep", "chunks"], "--keep chunks: is for one text a row"),
        (["--keep-columns", "vector"], "--keep-columns vector: the output would have two columns of this name"),
        (["--device", "cuda:99"], "--device cuda:99: not available here"),
        (["--data", "absent"], "--data names the folder that the checkpoint was pretrained on"),
        (["--checkpoint", "absent.pt"], "absent.pt: no such file"),
        (["--out", "/proc/out.parquet"], "--out /proc/out.parquet: "),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str], message: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode([*command, *flags]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1 and not list(tmp_path.iterdir())
