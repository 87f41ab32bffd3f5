"""EPUB: a zip archive of XHTML files and a list of the order in which they are read.

Everything is read in memory, under the limits below, and nothing is written. Entities that a file declares
itself are never expanded: the XHTML is read by the standard library's HTML parser, which knows none, and a
list of contents that declares some is refused.

Format: EPUB 3.3, https://www.w3.org/TR/epub-33/ (its "spine" is the same in EPUB 2).
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import BinaryIO
from urllib.parse import unquote
from xml.etree import ElementTree

from data_prep.problems import Problems
from data_prep.sources.files import LARGEST_DOCUMENT, READ_ERRORS

LARGEST_FILE = 4 * LARGEST_DOCUMENT  # bytes of an EPUB that lies in an archive; pictures make most of it

_XHTML = {"application/xhtml+xml", "text/html", "text/x-oeb1-document"}
_ENCODING = re.compile(rb"""<\?xml[^>]{,100}encoding=["']([\w.-]+)["']""")
_PARAGRAPHS = frozenset(
    "address article aside blockquote body br caption center dd div dl dt figcaption figure footer h1 h2 h3 h4 h5 h6 "
    "header hr li main ol p pre section table tbody tfoot thead tr ul".split()
)
_CELLS = {"td", "th"}
_NO_TEXT = {"head", "script", "style", "svg", "rt", "rp"}  # rt: how the characters before it are read aloud
# RuntimeError: a password; LookupError: no such file or encoding; ValueError: not decodable or too large.
_UNREADABLE = (*READ_ERRORS, zipfile.BadZipFile, ElementTree.ParseError, RuntimeError, LookupError, ValueError)


def read_epub(file: BinaryIO, where: str, problems: Problems) -> tuple[str, list[str]] | None:
    """The title and the paragraphs of a book, in reading order; None if it has to be left out.

    A chapter that cannot be read is reported by its name, and the book goes on behind it.
    """
    try:
        if type(file) is not io.BufferedReader:  # compressed or in an archive: zipfile needs to move about
            content = file.read(LARGEST_FILE + 1)
            if len(content) > LARGEST_FILE:
                raise ValueError(f"it takes more than {LARGEST_FILE >> 20} MB")
            file = io.BytesIO(content)
        with zipfile.ZipFile(file) as book:
            package_path = _package_path(book)
            package = _xml(book, package_path)
            locked = _encrypted(book)
            left = LARGEST_DOCUMENT
            paragraphs: list[str] = []
            for name in _spine(package, posixpath.dirname(package_path)):
                try:
                    if name in locked:
                        raise ValueError("encrypted against copying")
                    content = _content(book, name, left)
                    paragraphs += _paragraphs(content)
                except _UNREADABLE as error:
                    problems.report(f"{where}:{name}", f"the chapter cannot be read ({_words(error)})")
                    continue
                left -= len(content)
    except _UNREADABLE as error:
        problems.report(where, f"not an EPUB that can be read ({_words(error)})")
        return None
    title = next((element.text for element in package.iter() if _tag(element) == "title" and element.text), "")
    return " ".join(title.split()), paragraphs


def _words(error: Exception) -> str:
    return error.args[0] if isinstance(error, KeyError) else str(error)  # str() puts a KeyError in quotes


def _content(book: zipfile.ZipFile, name: str, limit: int) -> bytes:
    info = book.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # all that EPUB allows
        raise ValueError("packed by a method that EPUB does not have")
    if info.file_size > limit:
        raise ValueError(f"the book is longer than {LARGEST_DOCUMENT >> 20} MB")
    with book.open(info) as file:
        return file.read(info.file_size + 1)  # read() without a size would unpack more than is announced


def _xml(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    content = _content(book, name, LARGEST_DOCUMENT)
    if b"<!ENTITY" in content.replace(b"\0", b""):  # NUL: in UTF-16
        raise ValueError(f"{name} declares entities")
    return ElementTree.fromstring(content)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]  # without the name space


def _package_path(book: zipfile.ZipFile) -> str:
    for element in _xml(book, "META-INF/container.xml").iter():
        if _tag(element) == "rootfile":
            return element.attrib["full-path"]
    raise ValueError("META-INF/container.xml names no package")


def _spine(package: ElementTree.Element, folder: str) -> Iterator[str]:
    """Names in the archive of the XHTML files, in reading order, without the table of contents."""
    items = {e.get("id"): e for e in package.iter() if _tag(e) == "item"}
    for reference in (e for e in package.iter() if _tag(e) == "itemref"):
        item = items.get(reference.get("idref"))
        if item is None or item.get("media-type") not in _XHTML or "nav" in item.get("properties", "").split():
            continue
        yield posixpath.normpath(posixpath.join(folder, unquote(item.attrib["href"])))


def _encrypted(book: zipfile.ZipFile) -> set[str]:
    """Names of files that only the seller's own reader can open."""
    if "META-INF/encryption.xml" not in book.namelist():
        return set()
    references = (e for e in _xml(book, "META-INF/encryption.xml").iter() if _tag(e) == "CipherReference")
    return {unquote(e.get("URI", "")) for e in references}


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self._parts: list[str] = []
        self._silent = ""  # the element whose text is passed over

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body" or not self._silent:
            self._silent = tag if tag in _NO_TEXT else ""
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in (self._silent, "ruby"):  # HTML lets </rt> be left out before </ruby>
            self._silent = ""
        self._separate(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._parts.append(data)

    def _separate(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self.paragraphs.append(" ".join("".join(self._parts).split()))
            self._parts = []
        elif tag in _CELLS:
            self._parts.append(" ")

    def close(self) -> None:
        super().close()
        self._separate("body")


def _paragraphs(content: bytes) -> list[str]:
    parser = _Text()
    parser.feed(_decoded(content))
    parser.close()
    return parser.paragraphs


def _decoded(content: bytes) -> str:
    """Text of an XHTML file: UTF-8 unless its first bytes say something else.

    Raises:
        ValueError: it is in another encoding than it says.
        LookupError: of a name that no encoding has.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    declared = _ENCODING.match(content)
    return content.decode(declared[1].decode() if declared else "utf-8-sig")
