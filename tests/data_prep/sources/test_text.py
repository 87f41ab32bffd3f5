"""Files, folders and archives become documents; what is wrong with them is said by name."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_prep.corpus import Document
from data_prep.sources.text import books, doc_files, input_files, texts
from data_prep.stage import DataPrepError

Reader = Callable[[list[Path], Callable[[int], object]], Iterator[Document]]

ARTICLES = """<doc id="12" url="https://example.org/?curid=12" title="Bits &amp; &quot;bytes&quot;">
Bits & "bytes"

A   first paragraph.
</doc>

<doc id="13" url="https://example.org/?curid=13" title="Empty">
</doc>
"""


def read(reader: Reader, *paths: Path) -> list[tuple[str, str]]:
    """(title, text) of all documents."""
    return [(document.title, document.text) for document in reader(input_files(paths), lambda _: None)]


def pack(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    """A tar archive with members of any name."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_books_join_wrapped_lines(tmp_path: Path) -> None:
    path = tmp_path / "A_long_story.txt"
    path.write_text("\ufeffOnce upon\n  a time.\r\n\n\nThe end\tcame.\n")
    assert read(books, path) == [("A long story", "Once upon a time.\nThe end came.")]


def test_texts_keep_lines(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("One paragraph.\nAnother one.\n\n")
    assert read(texts, path) == [("notes", "One paragraph.\nAnother one.")]


def test_articles(tmp_path: Path) -> None:
    path = tmp_path / "wiki_00"
    path.write_text(ARTICLES)
    assert read(doc_files, path) == [('Bits & "bytes"', 'Bits & "bytes"\nA first paragraph.'), ("Empty", "")]


def test_a_folder_is_read_in_order_without_hidden_and_foreign_files(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a.md", ".hidden/3.txt", "b/.4.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff\xfe" if name.endswith("png") else name.encode())
    with pytest.raises(DataPrepError, match=r"picture\.png: not UTF-8"):
        read(texts, tmp_path)
    (tmp_path / "picture.png").write_text("now it is text, but not a .txt file")
    assert read(texts, tmp_path) == [("a", "a.md"), ("2", "b/2.txt")]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_archives_are_read_in_their_own_order(tmp_path: Path, suffix: str) -> None:
    mode = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}[suffix]
    path = pack(tmp_path / f"books.{suffix}", {"x/b.txt": b"Second", "x/a.txt": b"First", "x/.c.txt": b"No"}, mode)
    assert read(texts, path) == [("b", "Second"), ("a", "First")]


def test_an_archive_writes_nothing_anywhere(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pack(
        folder / "evil.tar.gz",
        {"../outside.txt": b"up", f"{tmp_path}/absolute.txt": b"a root", "inside.txt": b"good"},
    )
    with tarfile.open(folder / "links.tar", "w") as archive:
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    found = read(texts, folder)
    assert ("inside", "good") in found and "link" not in dict(found)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Just text.\n", "expected a <doc …> line, found 'Just text.'; see --source text"),
        (b'<doc id="7" url="" title="Cut">\nText\n', "article 7 has no </doc> line"),
        (b"\xff", "not UTF-8 at byte 0; convert it first"),
    ],
)
def test_wrong_articles_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "wiki_00"
    path.write_bytes(content)
    with pytest.raises(DataPrepError) as error:
        read(doc_files, path)
    assert "wiki_00" in str(error.value) and message in str(error.value)


def test_what_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataPrepError, match="nowhere: no such file or folder"):
        input_files([tmp_path / "nowhere"])
    with pytest.raises(DataPrepError, match="the folder holds no files"):
        input_files([tmp_path])


@pytest.mark.parametrize("keep", [0.5, 0.0])
@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_an_archive_that_was_cut_off_is_refused_by_name(tmp_path: Path, kind: str, keep: float) -> None:
    members = {f"{n}.txt": hashlib.sha256(b"%d" % n).hexdigest().encode() * 99 for n in range(99)}
    path = pack(tmp_path / f"half.tar.{kind}", members, f"w:{kind}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataPrepError, match=rf"half\.tar\.{kind}: not a complete tar archive"):
        read(texts, path)
