"""Books as text and as EPUB, good and bad ones."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from data_prep.corpus import tidy
from data_prep.sources import ReadErrors, books
from linformer_fairseq.errors import UsageError

CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="OPS/package.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""
PACKAGE = """<?xml version="1.0"?>
<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/" version="3.0">
<metadata><dc:title>The  Title</dc:title></metadata>
<manifest>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="b" href="text/b.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="a%20a.xhtml" media-type="application/xhtml+xml"/>
<item id="img" href="a.png" media-type="image/png"/>
</manifest>
<spine><itemref idref="nav"/><itemref idref="b"/><itemref idref="img"/><itemref idref="a"/></spine></package>"""
FIRST = """<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml"><head><title/><style>p {}</style></head>
<body><h1>Chapter&nbsp;1</h1><p>It was a <i>dark</i>
night &amp; <ruby>\u6f22<rt>kan</rt><rtc>Han</rtc></ruby>.<script src="x"/></p><p>One<br/>two.</p></body></html>"""
SECOND = "<html><body>The<p>end.<td>Cell<td>cell</body></html>"
FILES = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": CONTAINER,
    "OPS/package.opf": PACKAGE,
    "OPS/nav.xhtml": "<html><body>Contents</body></html>",
    "OPS/text/b.xhtml": FIRST,
    "OPS/a a.xhtml": SECOND,
}
TEXT = "Chapter 1\nIt was a dark night & \u6f22.\nOne\ntwo.\nThe\nend. Cell cell"


def make_epub(changes: dict[str, str | bytes] | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An EPUB in which some files are different."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as book:
        for name, content in {**FILES, **(changes or {})}.items():
            book.writestr(name, content)
    return out.getvalue()


def read(path: Path, problems: ReadErrors) -> list[tuple[str, str, str]]:
    """(id, title, text) of all books."""
    return [(d.id, d.title, d.text) for piece in books.pieces(path) for d in books.documents(piece, problems)]


def test_wrapped_lines_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "A_long_story.txt"
    path.write_text("\ufeffOnce upon\n  a time.\r\n\n\nThe end\tcame.\n")
    expected = [("A_long_story", "A long story", "Once upon a time.\nThe end came.")]
    assert read(path, ReadErrors()) == expected
    packed = tmp_path / "A_long_story.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read(packed, ReadErrors()) == expected


def test_lines_in_scripts_without_spaces_are_joined_without_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("第一行文字，\r\n　它在這裡\n繼續 PC\n上。\n\nกรุงเทพ\nมหานคร\n\n한국어는\n띄어 쓴다.", "utf-8")
    assert read(path, ReadErrors())[0][2] == "第一行文字，它在這裡繼續 PC 上。\nกรุงเทพมหานคร\n한국어는 띄어 쓴다."


def test_lines_that_are_whole_paragraphs_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    lines = ["Short.", "word " * 50 + "end", "Short again."]
    path.write_text("\n".join(lines))
    assert read(path, ReadErrors())[0][2].split("\n") == lines


def test_epub_in_reading_order(tmp_path: Path) -> None:
    expected = [("a", "The Title", TEXT)]
    (tmp_path / "a.epub").write_bytes(make_epub())
    assert read(tmp_path / "a.epub", ReadErrors()) == expected
    careless = PACKAGE.replace('a.xhtml" media-type="application/xhtml+xml"', 'a.xhtml#top" media-type="text/xml"')
    (tmp_path / "a.epub").write_bytes(make_epub({"OPS/package.opf": careless}))
    assert read(tmp_path / "a.epub", ReadErrors()) == expected
    for suffix, pack in (("gz", gzip.compress), ("xz", lzma.compress)):
        (tmp_path / f"a.epub.{suffix}").write_bytes(pack(make_epub()))
        assert read(tmp_path / f"a.epub.{suffix}", ReadErrors()) == expected
    with tarfile.open(tmp_path / "books.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.epub")
    assert read(tmp_path / "books.tar.gz", ReadErrors()) == expected


def test_epub_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.epub").write_bytes(
        make_epub({
            "OPS/text/b.xhtml": '<?xml version="1.0" encoding="iso-8859-1"?><p>caf\xe9</p>'.encode("latin-1"),
            "OPS/a a.xhtml": "<p>\u6f22</p>".encode("utf-16"),
        })
    )  # fmt: skip
    assert read(tmp_path / "a.epub", ReadErrors())[0][2] == "caf\xe9\n\u6f22"


BOMB = '<!DOCTYPE p [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"OPS/package.opf": BOMB + PACKAGE[22:]}, "not an EPUB that can be read (OPS/package.opf declares entities)"),
        ({"OPS/package.opf": PACKAGE[:200]}, "not an EPUB that can be read (unclosed token"),
        ({"META-INF/container.xml": "<container/>"}, "META-INF/container.xml names no package"),
        ({"META-INF/container.xml": CONTAINER.replace("OPS", "/etc")}, "no item named '/etc/package.opf'"),
    ],
)
def test_a_bad_epub_is_left_out(tmp_path: Path, changes: dict[str, str | bytes], message: str) -> None:
    (tmp_path / "a.epub").write_bytes(make_epub(changes))
    problems = ReadErrors(skip=True)
    assert read(tmp_path / "a.epub", problems) == []
    assert len(problems.skipped) == 1 and "a.epub: not an EPUB" in problems.skipped[0]
    assert message in problems.skipped[0].replace('"', "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"OPS/text/b.xhtml": b"<p>\xff</p>"}, "'utf-8' codec can't decode byte 0xff"),
        ({"OPS/text/b.xhtml": '<?xml version="1.0" encoding="klingon"?><p/>'}, "unknown encoding: klingon"),
        ({"OPS/text/b.xhtml": b"<p>" + b"a" * 100_000}, "the book is longer than"),
        (
            {"META-INF/encryption.xml": '<e><CipherReference URI="OPS/text/b.xhtml"/></e>'},
            "encrypted against copying",
        ),
        ({"OPS/text/b.xhtml": "<p>Text.</p><![word[x]]><p>more</p>"}, "marked section"),
        ({"OPS/text/b.xhtml": "<p>x</p>" + "<b" * 20_000}, "a tag or comment does not end"),
        ({"OPS/text/b.xhtml": "<p>x</p>" + "<!-- a>" * 6_000}, "a tag or comment does not end"),
        ({"OPS/package.opf": PACKAGE.replace("text/b", "../../../b")}, "no item named '../../b.xhtml'"),
    ],
)
def test_a_bad_chapter_is_reported_by_name_and_the_others_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | bytes], message: str
) -> None:
    monkeypatch.setattr(books, "LARGEST_DOCUMENT", 50_000)
    (tmp_path / "a.epub").write_bytes(make_epub(changes))
    with pytest.raises(UsageError, match=r"^\S+b\.xhtml: the chapter cannot be read"):
        read(tmp_path / "a.epub", ReadErrors())
    problems = ReadErrors(skip=True)
    assert read(tmp_path / "a.epub", problems) == [("a", "The Title", "The\nend. Cell cell")]
    assert len(problems.skipped) == 1 and message in problems.skipped[0]


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<ruby>漢<rt>kan<rb>字<rt>ji</ruby>。", ["漢字。"]),
        ("<ruby>漢<rp>(<rt>kan</rt><rp>)</rp>字<rp>(<rt>ji<rp>)</ruby>。", ["漢字。"]),
        ("<ruby>漢<rt>kan<rp>)</rp>字<rt>ji<br/>ji</rt></ruby>。", ["漢字。"]),
        ("<ruby><rb>漢<rb>字<rt>kan<rt>ji<rtc>Han<rt>zi</rtc></ruby>。", ["漢字。"]),
        ("<p><ruby>漢<rt>kan</p><p>字。", ["漢", "字。"]),
        ("<html><head><title>Title</title><p>漢字。", ["漢字。"]),
    ],
)
def test_what_is_no_text_ends_where_its_end_tag_is_left_out(markup: str, expected: list[str]) -> None:
    assert list(filter(None, books._paragraphs(markup.encode()))) == expected


def test_each_line_of_preformatted_text_is_a_paragraph() -> None:
    page = b"<p>Some\nverse:</p><pre>\nThe <b>first</b>\n  line,\r\nthe second.</pre>and\nthe end."
    assert tidy(books._paragraphs(page)).split("\n") == [
        "Some verse:", "The first", "line,", "the second.", "and the end."
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["<b", "<!-- note", "&am", "</p", "<"])
def test_a_chapter_that_ends_within_markup_keeps_its_text(end: str) -> None:
    assert "".join(books._paragraphs(f"<p>All of the text.{end}".encode())).startswith("All of the text.")


@pytest.mark.parametrize("markup", "<b|<!-- a>|</b|<?x |<![CDATA[ |<script></b|&lt|<!x|<b c='".split("|"))
def test_markup_that_does_not_end_takes_linear_time(markup: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left when no more markup ends is parsed again only where it is short."""
    steps = []
    goahead = books._Text.goahead
    monkeypatch.setattr(books._Text, "goahead", lambda self, end: (steps.append(len(self.rawdata)), goahead(self, end)))
    with suppress(ValueError):
        books._paragraphs((markup * 200_000).encode())
    assert sum(size for size in steps[1:]) <= books._OPEN_MARKUP


def test_entities_of_a_chapter_are_not_expanded(tmp_path: Path) -> None:
    (tmp_path / "a.epub").write_bytes(make_epub({"OPS/text/b.xhtml": BOMB + "<p>&b;</p>"}))
    assert "aaaa" not in read(tmp_path / "a.epub", ReadErrors())[0][2].replace('"aaaaaaaa"', "")


def test_a_zip_that_announces_less_than_it_holds_is_noticed(tmp_path: Path) -> None:
    content = make_epub({"OPS/text/b.xhtml": b" " * 20_000_000})
    size = (20_000_000).to_bytes(4, "little")
    assert content.count(size) == 2
    (tmp_path / "a.epub").write_bytes(content.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(UsageError, match=r"b\.xhtml: the chapter cannot be read \(Bad CRC-32"):
        read(tmp_path / "a.epub", ReadErrors())


def test_what_is_no_zip_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.epub").write_bytes(make_epub()[:-100])
    with pytest.raises(UsageError, match=r"a\.epub: not an EPUB that can be read \(File is not a zip file\)"):
        read(tmp_path / "a.epub", ReadErrors())
    (tmp_path / "a.epub").write_bytes(make_epub(method=zipfile.ZIP_BZIP2))
    with pytest.raises(UsageError, match="packed by a method that EPUB does not have"):
        read(tmp_path / "a.epub", ReadErrors())


def test_a_book_that_is_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "LARGEST_DOCUMENT", 1000)
    (tmp_path / "a.txt").write_text("A line.\n" * 1000)
    problems = ReadErrors(skip=True)
    assert read(tmp_path / "a.txt", problems) == []
    assert len(problems.skipped) == 1 and "split it; it is left out" in problems.skipped[0]


def test_the_books_of_a_real_archive(shared_data: Callable[[str], Path]) -> None:
    found = read(shared_data("text/classic-books.tar.xz"), ReadErrors())
    assert len(found) == 71 and min(len(text) for _, _, text in found) > 16_000
