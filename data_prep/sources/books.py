"""Books, one per file, as in BookCorpus: text in hard-wrapped lines, or EPUB.

An EPUB is a zip archive of XHTML files and a list of the order in which they are read: its spine (EPUB 3.3,
https://www.w3.org/TR/epub-33/). Everything is read in memory, under the limits below. Entities that a file declares
itself are never expanded: the standard library's HTML parser, which reads the XHTML, ignores declarations, and a
package file that declares entities is refused.
"""

import io
import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from typing import BinaryIO
from urllib.parse import unquote
from xml.etree import ElementTree

from data_prep.corpus import Document, join_wrapped, tidy
from data_prep.sources import Piece, ReadErrors
from data_prep.sources.files import LARGEST_DOCUMENT, TARS, files_in, kind, stem, whole
from data_prep.sources.lines import Lines

SUFFIXES = frozenset({".txt", ".md", ".epub"}) | TARS
pieces = whole

# Characters of the widest line that an editor or a transcriber wraps; a few lines of tables and verse are wider.
WIDEST_WRAPPED = 120
WIDER_LINES = 0.1

LARGEST_FILE = 4 * LARGEST_DOCUMENT  # bytes of an EPUB in an archive; most of it is pictures

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_XHTML = {"application/xhtml+xml", "text/html", "text/x-oeb1-document"}
_ENCODING = re.compile(rb"""<\?xml[^>]{,100}encoding=["']([\w.-]+)["']""")
_PARAGRAPHS = frozenset(
    "address article aside blockquote body br caption center dd div dl dt figcaption figure footer h1 h2 h3 h4 h5 h6 "
    "header hr li main ol p pre section table tbody tfoot thead tr ul".split()
)
_READINGS = {"rt", "rp", "rtc"}  # how the characters before it are pronounced
_NO_TEXT = {"head", "script", "style", "svg"} | _READINGS
# HTML lets end tags be left out before these start tags, and those of readings before these end tags.
_END_BEFORE = {"head": _PARAGRAPHS, **dict.fromkeys(_READINGS, {"rb", *_READINGS})}
_END_READINGS = {"ruby", *_PARAGRAPHS} - {"br"}
_OPEN_MARKUP = 1000  # characters at the end of a chapter that may belong to a tag or comment that does not end


def documents(piece: Piece, problems: ReadErrors, encoding: str | None = None) -> Iterator[Document]:
    """One document per book; a book of more than 32 MB of text is reported and left out."""
    for where, name, file in files_in(piece, SUFFIXES, problems):
        if kind(name) == ".epub":
            book = _read_epub(file, where, problems)
        else:
            book = _read_text(Lines(file, where, problems, encoding=encoding))
        if book is not None:
            title, paragraphs = book
            yield Document(stem(name), "books", title or stem(name).replace("_", " "), tidy(paragraphs))


def _read_text(lines: Lines) -> tuple[str, Iterable[str]] | None:
    """No title, and the paragraphs: an empty line ends one, and each line of a text that is not hard-wrapped does."""
    found: list[str] = []
    for line in lines:
        if lines.next_offset > LARGEST_DOCUMENT:
            lines.report(f"the book is longer than {LARGEST_DOCUMENT >> 20} MB, split it; it is left out")
            return None
        found += line.splitlines() or [""]
    if not lines.next_offset:  # an empty file
        return None
    widths = [len(line) for line in found if line.strip()]
    wrapped = sum(width > WIDEST_WRAPPED for width in widths) <= WIDER_LINES * len(widths)
    return "", join_wrapped(found) if wrapped else found


def _read_epub(file: BinaryIO, where: str, problems: ReadErrors) -> tuple[str, Iterable[str]] | None:
    """The title and the paragraphs, in reading order, without chapters that cannot be read; None without any."""
    try:
        # zipfile has to seek, and this is a pipe, compressed or in an archive.
        if type(file) is not io.BufferedReader or not file.seekable():
            packed = file.read(LARGEST_FILE + 1)
            if len(packed) > LARGEST_FILE:
                raise ValueError(f"it takes more than {LARGEST_FILE >> 20} MB")
            file = io.BytesIO(packed)
        book = zipfile.ZipFile(file)
        root = _xml(book, _CONTAINER).find(".//{*}rootfile")
        if root is None:
            raise ValueError(f"{_CONTAINER} names no package")
        package = _xml(book, root.attrib["full-path"])
        title = next((e.text for e in package.iterfind(".//{*}title") if e.text), "")
        chapters = list(_spine(package, posixpath.dirname(root.attrib["full-path"])))
        # Files that only the seller's own reader can open.
        locked = _xml(book, _ENCRYPTION).iterfind(".//{*}CipherReference") if _ENCRYPTION in book.namelist() else ()
        encrypted = {unquote(e.get("URI", "")) for e in locked}
    except Exception as error:  # whatever a parser raises, the file is the reason
        problems.report(where, f"not an EPUB that can be read ({_message(error)})")
        return None
    paragraphs: list[str] = []
    left = LARGEST_DOCUMENT
    for name in chapters:
        try:
            if name in encrypted:
                raise ValueError("encrypted against copying")
            content = _content(book, name, left)
            paragraphs += _paragraphs(content)
            left -= len(content)
        except Exception as error:
            problems.report(f"{where}:{name}", f"the chapter cannot be read ({_message(error)})")
    return " ".join(title.split()), paragraphs


def _message(error: Exception) -> str:
    return error.args[0] if isinstance(error, KeyError) else str(error)  # str() puts a KeyError in quotes


def _content(book: zipfile.ZipFile, name: str, limit: int) -> bytes:
    info = book.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # all that EPUB allows
        raise ValueError("packed by a method that EPUB does not have")
    if info.file_size > limit:
        raise ValueError(f"the book is longer than {LARGEST_DOCUMENT >> 20} MB")
    with book.open(info) as file:
        return file.read(info.file_size + 1)  # read() without a size would unpack more than the archive declares


def _xml(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    content = _content(book, name, LARGEST_DOCUMENT)
    if b"<!ENTITY" in content.replace(b"\0", b""):  # NUL: in UTF-16
        raise ValueError(f"{name} declares entities")
    return ElementTree.fromstring(content)


def _spine(package: ElementTree.Element, folder: str) -> Iterator[str]:
    """Names in the archive of the XHTML files, in reading order, without the table of contents."""
    items = {e.get("id"): e for e in package.iterfind(".//{*}item")}
    for reference in package.iterfind(".//{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or "nav" in item.get("properties", "").split():
            continue
        name = unquote(item.attrib["href"].partition("#")[0])
        if item.get("media-type") in _XHTML or name.lower().endswith((".xhtml", ".html", ".htm")):  # some books err
            yield posixpath.normpath(posixpath.join(folder, name))


def _paragraphs(content: bytes) -> list[str]:
    """The paragraphs of an XHTML file: UTF-8 unless its first bytes declare another encoding."""
    declared = _ENCODING.match(content)
    encoding = declared[1].decode() if declared else "utf-8-sig"
    parser = _Text()
    parser.feed(content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else encoding))
    # What is left is tried as text from each of its characters on, so its length counts squared.
    if len(parser.rawdata) > _OPEN_MARKUP:
        raise ValueError("a tag or comment does not end")
    parser.close()
    return ["".join(parts) for parts in parser.paragraphs]


class _Text(HTMLParser):
    """Collects the parts of the paragraphs of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[list[str]] = [[]]
        self._silent = ""  # the element whose text is left out
        self._verbatim = False  # whether line ends are those of the text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._silent or tag == "body" or tag in _END_BEFORE.get(self._silent, ()):
            self._silent = tag if tag in _NO_TEXT else ""
        self._verbatim |= tag == "pre"
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._silent or (self._silent in _READINGS and tag in _END_READINGS):
            self._silent = ""
        self._verbatim &= tag != "pre"
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if not self._silent:
            first, *others = data.split("\n") if self._verbatim else [data]
            self.paragraphs[-1].append(first)
            self.paragraphs += [[line] for line in others]

    def _separate(self, tag: str) -> None:
        if tag in _PARAGRAPHS and not self._silent:
            self.paragraphs.append([])
        elif tag in ("td", "th"):
            self.paragraphs[-1].append(" ")
