"""Every reader of files, given damaged ones: it reads them or refuses them in a sentence, in bounded time and memory.

    LINFORMER_FUZZ=2000 python -m pytest tests/faults/test_fuzz.py      2000 random examples of each kind of file

Without the variable there are few, the same in every run. What was found is in `FOUND`, which is always tried.
"""

from __future__ import annotations

import bz2
import io
import os
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from data_prep import encoders
from data_prep.corpus import Document, corpus_files, read_file, write_file
from data_prep.fairseq_dict import read_dictionary
from data_prep.pipeline import load_config
from data_prep.sources import ReadErrors, books, jsonl, tables, text, wikipedia
from linformer_fairseq.checkpoints.checkpoint import build, read, write
from linformer_fairseq.checkpoints.huggingface import from_hf, to_hf
from linformer_fairseq.errors import UsageError
from linformer_fairseq.tables import read_table
from linformer_fairseq.tasks.blocks import TokenFile
from linformer_fairseq.training.recipe import fairseq_train_argv

ROOT = Path(__file__).parents[2]
EXAMPLES = int(os.environ.get("LINFORMER_FUZZ", "0"))
SECONDS = 20  # of computing for one file
MEMORY = 4 << 30
NAMES = (
    *("checkpoint", "its-pickle", "safetensors", "config.json", "tokenizer.json", "model.safetensors", "epub"),
    *("book-in-epub", "dump", "dump.bz2", "jsonl", "txt", "parquet", "arrow", "corpus", "tsv", "csv", "dict.txt"),
    *("sentencepiece", "recipe", "pipeline", "index"),
)
WORDS = b"the river of a city in winter was read by many a teacher and by no doctor at all "


class Kind(NamedTuple):
    """A kind of file: valid content, where to put it, what reads it, and how it is packed into a file."""

    content: bytes
    path: Path
    read: Callable[[Path], object]
    pack: Callable[[bytes], bytes] = bytes


def source(module: Any, *options: str) -> Callable[[Path], object]:
    return lambda path: [d for piece in module.pieces(path) for d in module.documents(piece, ReadErrors())]


def repack(archive: Path, member: str) -> Callable[[bytes], bytes]:
    """What makes an archive again, with valid checksums, from another content of one of its members."""
    with zipfile.ZipFile(archive) as file:
        parts = {name: file.read(name) for name in file.namelist()}

    def pack(content: bytes) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as file:
            for name, part in parts.items():
                file.writestr(name, content if name.endswith(member) else part)
        return made.getvalue()

    return pack


@pytest.fixture(scope="module")
def kinds(checkpoint: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    """A small valid file of each kind."""
    here = tmp_path_factory.mktemp("fuzz")
    made: dict[str, Kind] = {}

    def model(path: Path) -> object:
        return build(read(path))

    made["checkpoint"] = Kind(checkpoint.read_bytes(), here / "a.pt", model)
    with zipfile.ZipFile(checkpoint) as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    made["its-pickle"] = Kind(pickled, here / "b.pt", model, repack(checkpoint, "data.pkl"))
    write(read(checkpoint), here / "a.safetensors")
    made["safetensors"] = Kind((here / "a.safetensors").read_bytes(), here / "b.safetensors", model)
    to_hf(read(checkpoint), tokenizer, here / "hf", False, None, None)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        made[name] = Kind(
            (here / "hf" / name).read_bytes(), here / "hf" / name, lambda path: build(from_hf(path.parent))
        )

    package = '<package><manifest><item id="a" href="a.xhtml"/></manifest><spine><itemref idref="a"/></spine></package>'
    book = b"<html><body><h1>One</h1><p>" + WORDS + b"<i>&amp;</i><br/><![CDATA[x]]><!-- y --></p></body></html>"
    with zipfile.ZipFile(here / "a.epub", "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", '<container><rootfile full-path="p.opf"/></container>')
        archive.writestr("p.opf", package)
        archive.writestr("a.xhtml", book)
    made["epub"] = Kind((here / "a.epub").read_bytes(), here / "b.epub", source(books))
    made["book-in-epub"] = Kind(book, here / "c.epub", source(books), repack(here / "a.epub", "a.xhtml"))
    wikitext = b"'''A''' [[b|c]] {{d|e={{f}}}} &lt;ref&gt;g&lt;/ref&gt; {| h |} " + WORDS
    page = b"<page><title>T</title><ns>0</ns><id>1</id><revision><text>%s</text></revision></page>\n" % wikitext
    dump = b'<mediawiki xml:lang="en"><siteinfo><namespaces></namespaces></siteinfo>\n' + page * 2 + b"</mediawiki>\n"
    made["dump"] = Kind(dump, here / "a.xml", source(wikipedia))
    made["dump.bz2"] = Kind(bz2.compress(dump), here / "a.xml.bz2", source(wikipedia))
    rows = b"".join(b'{"id": %d, "text": "%s", "label": "x"}\n' % (n, WORDS) for n in range(3))

    def json_lines(path: Path) -> object:
        return read_table(path, ["text"], "label"), source(jsonl)(path)

    made["jsonl"] = Kind(rows, here / "a.jsonl", json_lines)
    made["txt"] = Kind(WORDS * 3, here / "a.txt", source(text))
    document = [Document("1", "text", "1", WORDS.decode())] * 3
    write_file(document, here / "corpus/a.parquet")

    def corpus(path: Path) -> object:
        return [list(read_file(file)) for file in corpus_files(path.parent)]

    def parquet(path: Path) -> object:
        return read_table(path, ["text"]), source(tables)(path)

    stored = (here / "corpus/a.parquet").read_bytes()
    made["corpus"] = Kind(stored, here / "corpus/a.parquet", corpus)
    made["parquet"] = Kind(stored, here / "a.parquet", parquet)
    sink = io.BytesIO()
    table = pa.table({"text": [WORDS.decode()] * 3})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    made["arrow"] = Kind(sink.getvalue(), here / "a.arrow", source(tables))
    for suffix, mark in (("tsv", b"\t"), ("csv", b",")):
        lines = b"text%slabel\n" % mark + b'"%s"%sx\n' % (WORDS, mark) * 3
        made[suffix] = Kind(lines, here / f"a.{suffix}", lambda path: read_table(path, ["text"], "label"))
    made["dict.txt"] = Kind((tokenizer / "dict.txt").read_bytes(), here / "dict.txt", read_dictionary)
    (here / "tokenizer").mkdir()
    (here / "tokenizer/dict.txt").write_bytes((tokenizer / "dict.txt").read_bytes())

    def pieces(path: Path) -> object:
        encoder = encoders.load(path.parent)
        return encoder.decode(encoder.encode([WORDS.decode()])[0])

    name = "sentencepiece.model"
    made["sentencepiece"] = Kind((tokenizer / name).read_bytes(), here / "tokenizer" / name, pieces)
    recipe = (ROOT / "recipes/pretrain/tiny_n512_k128.yaml").read_bytes()
    made["recipe"] = Kind(recipe, here / "recipe.yaml", lambda path: fairseq_train_argv(path, "data", here / "run"))
    pipeline = (ROOT / "data_prep/configs/wikipedia_books.yaml").read_bytes()
    made["pipeline"] = Kind(pipeline, here / "pipeline.yaml", lambda path: load_config(str(path), ["input=x"]))
    header = b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + bytes([8]) + (3).to_bytes(8, "little") + bytes(8)
    sizes = b"".join(n.to_bytes(4, "little") for n in (2, 3, 4))
    header = header[:-8] + sizes + b"".join(n.to_bytes(8, "little") for n in (0, 4, 10))
    (here / "train.bin").write_bytes(bytes(18))
    made["index"] = Kind(header, here / "train.idx", lambda path: TokenFile(path.with_suffix("")))
    return made


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """More memory than `MEMORY` is a MemoryError, which no reader may cause."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds of computing")


def refused_or_read(kind: Kind, content: bytes) -> None:
    """Let the reader have a file of this content; anything but a result or a UsageError is a failure."""
    kind.path.write_bytes(kind.pack(content))
    signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        kind.read(kind.path)
    except UsageError as error:
        assert str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def damaged(content: bytes, edits: list[tuple[str, float, int, int]]) -> bytes:
    """Some bytes of a file cut off, removed, repeated, exchanged, replaced, or one bit of them changed."""
    for edit, where, length, value in edits:
        at = int(where * len(content))
        before, part, after = content[:at], content[at : at + length], content[at + length :]
        content = {
            "cut": before,
            "remove": before + after,
            "repeat": before + part * (1 + value % 8) + after,
            "exchange": before + after[:length] + part + after[length:],
            "replace": before + bytes([value]) * len(part) + after,
            "flip": before + bytes([part[0] ^ (1 << value % 8)]) + part[1:] + after if part else content,
        }[edit]
    return content


EDIT = st.tuples(
    st.sampled_from(["cut", "remove", "repeat", "exchange", "replace", "flip", "flip"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 64),
    st.integers(0, 255),
)
NESTED = b"[" * 100_000
FOUND: dict[str, list[bytes]] = {
    "jsonl": [NESTED, b'{"text": ' + NESTED, b"1" * 5000 + b"\n", b'{"text": 1' + b"1" * 5000 + b"}\n"],
    "config.json": [NESTED, b"[]", b"1" * 5000],
    "tokenizer.json": [NESTED, b"{}"],
    "recipe": [NESTED, b"a: &a [*a]", b"task: 1", b"task: {_name: [1]}", b"- 1", b"optimization: 3"],
    "pipeline": [NESTED, b"a: &a [*a]", b"sources: 1", b"- 1", b"sources: [1]", b"clean: 3"],
}

DAMAGE_FOUND: dict[str, list[tuple[str, float, int, int]]] = {"sentencepiece": [("replace", 0.5, 1, 128)]}


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused(name: str, kinds: dict[str, Kind]) -> None:
    kind = kinds[name]
    kind.path.write_bytes(kind.pack(kind.content))
    kind.read(kind.path)  # which is valid

    @settings(
        max_examples=EXAMPLES or 25,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
    )
    @given(st.lists(EDIT, min_size=1, max_size=4))
    def try_it(edits: list[tuple[str, float, int, int]]) -> None:
        refused_or_read(kind, damaged(kind.content, edits))

    try:
        for content in (b"", b"\0", b"\xff" * 100, *FOUND.get(name, ())):
            refused_or_read(kind, content)
        for edit in DAMAGE_FOUND.get(name, ()):
            refused_or_read(kind, damaged(kind.content, [edit]))
        try_it()
    finally:
        kind.path.write_bytes(kind.pack(kind.content))  # some readers look at the files beside it
