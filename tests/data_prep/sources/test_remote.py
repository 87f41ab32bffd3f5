"""Storage that fsspec reads and writes: its file system in memory, and S3, of moto's server on this machine."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from data_prep.config import ReadingConfig, SourceConfig
from data_prep.corpus import corpus_files, read_file
from data_prep.extract import extract
from data_prep.upload import upload
from linformer_fairseq.errors import UsageError

fsspec = pytest.importorskip("fsspec", reason="the package fsspec is not installed")
pytest.importorskip("upath", reason="the package universal_pathlib (extra remote) is not installed")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a server of S3."""
    pytest.importorskip("s3fs", reason="the package s3fs (extra remote) is not installed")
    server = pytest.importorskip(
        "moto.server", reason="moto is not installed: pip install s3fs moto[s3] flask flask-cors"
    )
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    yield f"http://127.0.0.1:{running.get_host_and_port()[1]}"
    running.stop()


@pytest.fixture(params=["memory", "s3"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Files below memory://bucket/ or s3://bucket/."""
    if request.param == "s3":
        settings = {"ENDPOINT_URL": request.getfixturevalue("s3"), "DEFAULT_REGION": "us-east-1"}
        for name, value in (settings | {"ACCESS_KEY_ID": "none", "SECRET_ACCESS_KEY": "none"}).items():
            monkeypatch.setenv(f"AWS_{name}", value)
    fsspec.filesystem(request.param).clear_instance_cache()
    storage = fsspec.filesystem(request.param)
    storage.makedirs("bucket", exist_ok=True)
    table, parquet, arrow = pa.table({"text": ["From a row."]}), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    feather.write_feather(table, arrow, "uncompressed")
    page = (
        "<page><title>A</title><ns>0</ns><id>1</id><revision><id>1</id><text>From a [[page]].</text></revision></page>"
    )
    dump = f'<mediawiki><siteinfo><namespaces><namespace key="0" /></namespaces></siteinfo>{page}</mediawiki>'
    for name, content in {
        "texts/a.txt": b"From a text.",
        "texts/below/b.txt.gz": gzip.compress(b"From a packed text."),
        "texts/.hidden.txt": b"Hidden.",
        "texts/cover.png": b"none",
        "rows/a.jsonl": json.dumps({"text": "From a line."}).encode(),
        "rows/a.parquet": parquet.getvalue(),
        "rows/a.arrow": arrow.getvalue(),
        "dump.xml.bz2": bz2.compress(dump.encode()),
    }.items():
        storage.pipe(f"bucket/{name}", content)
    yield storage
    storage.rm("bucket", recursive=True)


def root(storage: Any) -> str:
    """The address of the bucket."""
    return f"{'s3' if 's3' in storage.protocol else 'memory'}://bucket"


def read(out: Path, source: str, *inputs: str) -> list[str]:
    """The texts of a source."""
    extract(SourceConfig(source, list(inputs)), out, ReadingConfig(), 0)
    return [document.text for path in corpus_files(out) for document in read_file(path)]


def test_every_source_reads_addresses(storage: Any, tmp_path: Path) -> None:
    texts = ["From a text.", "From a packed text."]
    assert read(tmp_path / "folder", "text", f"{root(storage)}/texts") == texts
    assert read(tmp_path / "pattern", "text", f"{root(storage)}/**/*.gz", f"{root(storage)}/texts/a.txt") == texts[::-1]
    assert read(tmp_path / "lines", "jsonl", f"{root(storage)}/rows") == ["From a line."]
    assert read(tmp_path / "rows", "parquet", f"{root(storage)}/rows") == ["From a row."] * 2
    assert read(tmp_path / "dump", "wikipedia", f"{root(storage)}/dump.xml.bz2") == ["From a page."]
    record = json.loads((tmp_path / "folder/extract-text.json").read_text())
    assert record["result"]["left_out"] == {".png files": 1, "hidden": 1}


def test_other_content_at_an_address_is_refused(storage: Any, tmp_path: Path) -> None:
    read(tmp_path, "text", f"{root(storage)}/texts/a.txt")
    read(tmp_path, "text", f"{root(storage)}/texts/a.txt")
    storage.pipe("bucket/texts/a.txt", b"From a test.")
    with pytest.raises(UsageError, match="result of other settings .inputs changed"):
        read(tmp_path, "text", f"{root(storage)}/texts/a.txt")


@pytest.mark.parametrize(
    ("name", "message"), [("/none*", "no file matches"), ("/none", "no file"), (None, "cannot be reached")]
)
def test_what_is_not_there_is_named(storage: Any, tmp_path: Path, name: str | None, message: str) -> None:
    address = "nowhere://x" if name is None else root(storage) + name
    with pytest.raises(UsageError, match=f"^{address.replace('*', '.')}: {message}"):
        read(tmp_path, "text", address)


def test_a_finished_folder_is_uploaded_once(storage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, target = tmp_path / "made", f"{root(storage)}/made"
    texts = read(made, "text", f"{root(storage)}/texts")
    upload(made, target)
    upload(made, f"{target}/")
    assert re.findall(r"(\d+) files copied, (\d+) were there", capsys.readouterr().out) == [("3", "0"), ("0", "3")]
    assert sorted(name.rpartition("/")[2] for name in storage.find("bucket/made")) == sorted(
        path.name for path in made.iterdir() if path.is_file()
    )
    assert read(tmp_path / "again", "parquet", target) == texts
    record = made / "extract-text.json"
    record.write_text(record.read_text().replace("text", "TEXT"))  # of the same size, and newer
    os.utime(record, (time := record.stat().st_mtime + 60, time))
    upload(made, target)
    assert storage.cat("bucket/made/extract-text.json") == record.read_bytes()


def test_the_records_are_uploaded_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("split.json", "train/a.parquet", ".work/a.json", "train/.b.x.partial"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    storage, order = fsspec.filesystem("memory"), []
    monkeypatch.setattr(type(storage), "put_file", lambda _, path, goal: order.append(goal))
    upload(tmp_path, "memory://bucket")
    assert order == ["/bucket/train/a.parquet", "/bucket/split.json"]


def test_folders_of_a_file_system_are_made(tmp_path: Path) -> None:
    (tmp_path / "made/train").mkdir(parents=True)
    (tmp_path / "made/train/a.parquet").write_text("text")
    upload(tmp_path / "made", f"file://{tmp_path}/copy")
    assert (tmp_path / "copy/train/a.parquet").read_text() == "text"


def test_what_cannot_be_uploaded_is_one_sentence(tmp_path: Path) -> None:
    for address, message in (("bucket/a", "no address"), ("memory://bucket", "no files to upload")):
        with pytest.raises(UsageError, match=message):
            upload(tmp_path, address)
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match="^nowhere://x: cannot be written"):
        upload(tmp_path, "nowhere://x")
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work/a.claim").touch()
    with pytest.raises(UsageError, match="a stage is at work there"):
        upload(tmp_path, "memory://bucket")
