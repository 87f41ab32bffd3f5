"""From files of documents to a file of vectors or predictions, by the command line, killed and not."""

from __future__ import annotations

import random
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
from linformer_fairseq.commands import encode
from linformer_fairseq.inference.predict import HEAD, Labels, Predictor
from linformer_fairseq.inference.parts import Output
from linformer_fairseq.inference.sequences import tokenizer_of

REPOSITORY = Path(__file__).resolve().parents[2]
WORDS = "the river garden child teacher book city winter letter".split()
EMPTY = (3, 17)  # rows without text


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 documents of 1 to 150 words, in row groups of 20."""
    chance = random.Random(0)
    texts: list[str | None] = [" ".join(chance.choices(WORDS, k=chance.randint(1, 150))) for _ in range(50)]
    texts[EMPTY[0]], texts[EMPTY[1]] = None, "  "
    path = tmp_path_factory.mktemp("documents") / "docs.parquet"
    table = pa.table({"id": [f"d{i}" for i in range(50)], "text": texts, "n": [[i, i] for i in range(50)]})
    pq.write_table(table, path, row_group_size=20)
    return path


@pytest.fixture
def command(checkpoint: Path, documents: Path, tmp_path: Path) -> list[str]:
    words = ["--checkpoint", str(checkpoint), "--input", str(documents), "--out", str(tmp_path / "out.parquet")]
    return [*words, "--device", "cpu", "--window", "8", "--batch-tokens", "500", "--keep-columns", "id", "n"]


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
    assert encode.main([*command, "--long", "chunks"]) == 0
    printed = capsys.readouterr()
    assert "50 documents, " in printed.out and "2 without text, null there" in printed.out
    assert "longer than the model's 64 tokens, all of them, in chunks; " in printed.out and "tokens/s" in printed.out
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


def test_a_finished_output_is_left_alone_and_another_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.parquet"
    assert encode.main(command) == 0
    before = (out.stat().st_mtime_ns, out.stat().st_ino)
    assert encode.main([*command, "--threads", "1"]) == 0  # which changes no value
    assert "already finished; 50 documents" in capsys.readouterr().out
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == before
    other = [*command, "--pooling", "max", "--vectors", "float16"]
    assert encode.main(other) == 1
    assert "holds the result of other settings (--pooling, --vectors changed)" in capsys.readouterr().err
    assert encode.main([*other, "--force"]) == 0
    assert pq.read_schema(out).field("vector").type == pa.list_(pa.float16(), 128)
    out.write_text("mine")
    assert encode.main(command) == 1
    assert "exists and was not made by encode.py" in capsys.readouterr().err and out.read_text() == "mine"


def test_a_killed_command_goes_on(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert encode.main(command) == 0
    out = tmp_path / "out.parquet"
    wanted = out.read_bytes()
    out.unlink()
    words = [sys.executable, str(REPOSITORY / "recipes/encode.py"), *command]
    parts = tmp_path / ".out.parquet.parts"
    # A process that waits long after each part, to be killed in between.
    slow = "import runpy, sys, time, encoding.parts as p; add = p.Output.add; "
    slow += "p.Output.add = lambda *a: (add(*a), time.sleep(60)); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], "
    slow += "run_name='__main__')"
    environment = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'recipes'}", "OMP_NUM_THREADS": "1"}
    for count in (1, 2):
        with subprocess.Popen([sys.executable, "-c", slow, *words[1:]], env=environment) as process:
            while len(list(parts.glob("0*.parquet"))) < count:
                assert process.poll() is None
                time.sleep(0.05)
            assert encode.main(command) == 1
            assert "another command is writing it" in capsys.readouterr().err
            process.send_signal(signal.SIGKILL)
    assert not out.exists()
    assert encode.main([*command, "--pooling", "max"]) == 1
    assert "holds the unfinished work of other settings (--pooling changed)" in capsys.readouterr().err
    (parts / "000000007.parquet").write_bytes(b"")  # behind one that is missing
    added = []
    monkeypatch.setattr(Output, "add", lambda *a, add=Output.add: (added.append(a), add(*a)))
    assert encode.main(command) == 0
    assert len(added) == 5  # of 7 windows
    assert out.read_bytes() == wanted and not parts.exists()


def test_predictions_are_those_of_the_predictor(
    command: list[str], checkpoint: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = read(checkpoint)
    model = build(source)
    torch.manual_seed(1)
    model.register_classification_head(HEAD, num_classes=3)
    labels = Labels(("no", "yes", "perhaps"), 1, "chunks")
    tuned = Checkpoint(model.state_dict(), source.model, source.task, 3, [labels.note(source.data)])
    write(tuned, tmp_path / "model.pt")
    command = [*command, "--predict", "--checkpoint", str(tmp_path / "model.pt")]
    assert encode.main(command) == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["id", "n", "label", "scores"]
    texts = pq.read_table(documents).column("text").to_pylist()
    some = [i for i in range(50) if i not in EMPTY]
    predictor = Predictor(tuned, tokenizer_of(tuned, None))
    logits = predictor.logits(predictor.sequences([(texts[i],) for i in some]))
    wanted = [labels.classes[i] for i in logits.argmax(1)]
    assert [found["label"][i].as_py() for i in some] == wanted and found["label"].null_count == 2
    scores = np.array([found["scores"][i].as_py() for i in some])
    np.testing.assert_allclose(scores, torch.from_numpy(logits).softmax(1), atol=1e-5)
    assert encode.main([*command, "--long", "head"]) == 1
    assert "--long: is for vectors; with --predict the checkpoint says it" in capsys.readouterr().err


def test_scores_of_a_regression(command: list[str], checkpoint: Path, tmp_path: Path) -> None:
    source = read(checkpoint)
    model = build(source)
    model.register_classification_head(HEAD, num_classes=1)
    note = Labels((), 1).note(source.data)
    write(Checkpoint(model.state_dict(), source.model, source.task, 3, [note]), tmp_path / "model.pt")
    assert encode.main([*command, "--predict", "--checkpoint", str(tmp_path / "model.pt")]) == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.field("score").type == pa.float32() and found["score"].null_count == 2


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--predict"], "the checkpoint was not fine-tuned"),
        (["--text-column", "body"], "no column body; it has id, text, n"),
        (["--text-column", "n"], "not text; --text-column must name a column of strings"),
        (["--text-column", "text", "text", "text"], "--text-column: one or two columns, not 3"),
        (["--text-column", "text", "id", "--long", "chunks"], "--long chunks: is for one text a row"),
        (["--keep-columns", "vector"], "--keep-columns vector: the output would have two columns of this name"),
        (["--batch-tokens", "0"], "--batch-tokens 0: must be at least 1"),
        (["--device", "cuda:99"], "--device cuda:99: not to be had here"),
        (["--data", "absent"], "--data names the folder that the checkpoint was pretrained on"),
        (["--checkpoint", "absent.pt"], "absent.pt: no such file"),
        (["--out", "/proc/out.parquet"], "--out /proc/out.parquet: "),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str], message: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode.main([*command, *flags]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1 and not list(tmp_path.iterdir())
