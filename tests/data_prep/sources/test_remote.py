"""Inputs on storage that fsspec reads, here its file system in memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
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
from linformer_fairseq.errors import UsageError

fsspec = pytest.importorskip("fsspec", reason="the package fsspec is not installed")
pytest.importorskip("upath", reason="the package universal_pathlib (extra remote) is not installed")


@pytest.fixture
def storage() -> Iterator[Any]:
    """Files below memory://bucket/."""
    memory = fsspec.filesystem("memory")
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
        memory.pipe(f"/bucket/{name}", content)
    yield memory
    memory.rm("/bucket", recursive=True)


def read(out: Path, source: str, *inputs: str) -> list[str]:
    """The texts of a source."""
    extract(SourceConfig(source, list(inputs)), out, ReadingConfig(), 0)
    return [document.text for path in corpus_files(out) for document in read_file(path)]


def test_every_source_reads_addresses(storage: Any, tmp_path: Path) -> None:
    texts = ["From a text.", "From a packed text."]
    assert read(tmp_path / "folder", "text", "memory://bucket/texts") == texts
    assert read(tmp_path / "pattern", "text", "memory://bucket/**/*.gz", "memory://bucket/texts/a.txt") == texts[::-1]
    assert read(tmp_path / "lines", "jsonl", "memory://bucket/rows") == ["From a line."]
    assert read(tmp_path / "rows", "parquet", "memory://bucket/rows") == ["From a row."] * 2
    assert read(tmp_path / "dump", "wikipedia", "memory://bucket/dump.xml.bz2") == ["From a page."]
    record = json.loads((tmp_path / "folder/extract-text.json").read_text())
    assert record["result"]["left_out"] == {".png files": 1, "hidden": 1}


def test_other_content_at_an_address_is_refused(storage: Any, tmp_path: Path) -> None:
    read(tmp_path, "text", "memory://bucket/texts/a.txt")
    read(tmp_path, "text", "memory://bucket/texts/a.txt")
    storage.pipe("/bucket/texts/a.txt", b"From a test.")
    with pytest.raises(UsageError, match="result of other settings .inputs changed"):
        read(tmp_path, "text", "memory://bucket/texts/a.txt")


@pytest.mark.parametrize(
    ("address", "message"),
    [("memory://bucket/none*", "no file matches"), ("memory://none", "no file"), ("nowhere://x", "cannot be reached")],
)
def test_what_is_not_there_is_named(storage: Any, tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{address.replace('*', '.')}: {message}"):
        read(tmp_path, "text", address)
