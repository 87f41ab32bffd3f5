"""The files on the page about serving do what it says, copied from it."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import io
import json
import re
import runpy
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from linformer_fairseq.checkpoints.checkpoint import read, write
from linformer_fairseq.checkpoints.names import DEFAULT_HEAD
from linformer_fairseq.cli import main
from linformer_fairseq.inference.predict import Labels

PAGE = Path(__file__).resolve().parents[2] / "docs/howto/serve.md"
TEXTS = ["the river garden", "a warm book " * 9, "cold", "the teacher reads the letter and sees the city " * 30]
Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, and a classifier of two classes with random parameters."""
    folder = tmp_path_factory.mktemp("serve")
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        (folder / block.split()[1]).write_text(block, encoding="utf-8")
    tuned = read(checkpoint)
    torch.manual_seed(0)
    channels = tuned.state["encoder.sentence_encoder.layernorm_embedding.weight"].numel()
    for part, rows in (("dense", channels), ("out_proj", 2)):
        for name, shape in (("weight", (rows, channels)), ("bias", (rows,))):
            tuned.state[f"classification_heads.{DEFAULT_HEAD}.{part}.{name}"] = torch.randn(shape) / channels**0.5
    tuned.notes = [Labels(("cold", "warm"), 1).note(tokenizer)]
    write(tuned, folder / "model.pt")
    assert main(["convert", "release", str(folder / "model.pt"), str(folder / "classifier")]) == 0
    return folder


def run(script: Path, *arguments: object) -> None:
    """What `python script arguments` does."""
    words, sys.argv = sys.argv, [str(script), *map(str, arguments)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = words


@pytest.fixture(scope="module")
def serve(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve", folder / "serve.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def running(serve: ModuleType, folder: Path) -> Iterator[Any]:
    serve.Handler.log_message = lambda *_: None
    serve.Handler.timeout = serve.SECONDS = 60
    with serve.Server(folder / "classifier", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def ask(running: Any) -> Ask:
    def send(body: bytes, path: str = "/classify", method: str = "POST", **headers: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", running.server_port, timeout=60)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        assert response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(content) if content else {}

    return send


@torch.inference_mode()
def test_answers_are_the_models_whoever_else_asks(
    ask: Ask, folder: Path, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder / "classifier", trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "classifier")
    expected = [
        model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.softmax(-1)[0].tolist() for text in TEXTS
    ]
    classifier = running.RequestHandlerClass.classifier
    sizes, session, begun = [], classifier.session, threading.Event()

    def slowly(names: list[str], inputs: dict[str, Any]) -> Any:
        sizes.append(inputs["input_ids"].shape)
        begun.wait(60)
        return session.run(names, inputs)

    monkeypatch.setattr(classifier, "session", type("Slow", (), {"run": staticmethod(slowly)}))
    asked = TEXTS * 6
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = [pool.submit(ask, json.dumps({"text": text}).encode()) for text in asked]
        while sum(rows for rows, _ in sizes) + classifier.line.qsize() < len(asked):
            assert not any(answer.done() for answer in answers)
        begun.set()
        for answer, wanted in zip(answers, expected * 6, strict=True):
            status, found = answer.result()
            assert status == 200 and found["label"] == ("cold", "warm")[int(np.argmax(wanted))]
            assert list(found["scores"].values()) == pytest.approx(wanted, abs=1e-5)
    assert max(rows for rows, _ in sizes) > 5 and len(sizes) < len(asked)


@pytest.mark.parametrize(
    ("status", "body", "how"),
    [
        *(
            (400, body, {})
            for body in (b"{}", b"[1]", b"no JSON", b'{"text": 3}', b'{"text": " "}', b"\xff", b"[" * 9999)
        ),
        (400, b'{"text": "\\ud800"}', {}),
        (404, b'{"text": "a"}', {"path": "/"}),
        (404, b"", {"path": "/nothing", "method": "GET"}),
        (405, b"", {"method": "GET"}),
        (501, b"", {"method": "PUT"}),
        (501, b"", {"method": "HEAD"}),
        (200, b"", {"path": "/health", "method": "GET"}),
        (411, b"", {"Content-Length": "-1"}),
        (411, b"", {"Content-Length": "many"}),
        (411, b"", {"Transfer-Encoding": "chunked"}),
        (413, b"", {"Content-Length": str((1 << 20) + 1)}),
        (413, b"", {"Content-Length": "9" * 5000}),
        (408, b"{", {"Content-Length": "2"}),
    ],
    ids=str,
)
def test_what_cannot_be_answered_has_its_status(
    ask: Ask, serve: ModuleType, status: int, body: bytes, how: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as impatient:
        if status == 408:
            impatient.setattr(serve.Handler, "timeout", 0.1)
        found, answer = ask(body, **how)
    assert found == status and ("error" in answer or status == 200 or how.get("method") == "HEAD")
    assert ask(b'{"text": "the river"}')[0] == 200


def test_a_connection_serves_several_requests(running: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.server_port, timeout=60)
    for body, status in ((b"[]", 400), (b'{"text": "a"}', 200), (b'{"text": "b"}', 200)):
        connection.request("POST", "/classify", body)
        response = connection.getresponse()
        response.read()
        assert response.status == status and not response.will_close
    connection.close()


def test_a_line_that_is_full_and_an_answer_that_does_not_come(
    ask: Ask, serve: ModuleType, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, end = running.RequestHandlerClass.classifier, threading.Event()
    session = classifier.session

    def never(*arguments: Any) -> Any:
        end.wait(60)
        return session.run(*arguments)

    monkeypatch.setattr(classifier, "session", type("Never", (), {"run": staticmethod(never)}))
    monkeypatch.setattr(serve, "SECONDS", 0.2)
    monkeypatch.setattr(classifier.line, "maxsize", 1)
    body = b'{"text": "a"}'
    assert ask(body)[0] == 504  # being computed
    assert ask(body)[0] == 504  # in line
    assert ask(body)[0] == 503
    end.set()


def test_a_failed_batch_ends_no_server(ask: Ask, running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(running.RequestHandlerClass.classifier, "session", None)
        assert ask(b'{"text": "a"}') == (500, {"error": "the model failed; see the server's log"})
    assert ask(b'{"text": "a"}')[0] == 200


def test_a_client_that_goes_harms_nobody(ask: Ask, running: Any) -> None:
    with socket.create_connection(("127.0.0.1", running.server_port)) as one:
        one.sendall(b"POST /classify HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert ask(b'{"text": "a"}')[0] == 200


def test_a_question_finds_its_document(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    lines = {f"d{i}": " ".join(f"{word} {i}" for word in text.split()) for i, text in enumerate(TEXTS * 5)}
    files = {"docs": lines | {"empty": ""}, "questions": {name: lines[name] for name in ("d7", "d3")}}
    for name, rows in files.items():
        content = "".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in rows.items())
        (tmp_path / f"{name}.jsonl").write_text(content)
        words = ["--checkpoint", str(checkpoint), "--input", str(tmp_path / f"{name}.jsonl"), "--keep-columns", "id"]
        assert main(["encode", *words, "--device", "cpu", "--out", str(tmp_path / f"{name}.parquet")]) == 0
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run(folder / "search.py", tmp_path / "docs.parquet", tmp_path / "questions.parquet")
    found = [line.split("\t") for line in printed.getvalue().splitlines()]
    assert [(question, first) for question, first, *_ in found] == [("d7", "d7 1.000"), ("d3", "d3 1.000")]
    assert all(len(row) == 4 for row in found)
