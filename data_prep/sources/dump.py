"""The pages of a MediaWiki XML dump, each parsed on its own.

Pages are found by their tags as bytes, which cannot occur in a page's text, where ``<`` is escaped. So a piece can
start anywhere, a broken page costs only itself, and memory is bounded by the largest page. A page belongs to the
piece in which its ``<page>`` begins.
"""

import html
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from data_prep.problems import Problems
from data_prep.sources import Piece
from data_prep.sources.dump_bytes import Chunk, chunks

PAGE_BYTES = 16 << 20  # MediaWiki's own limit is 2 MiB of wikitext, up to six times as much when escaped
HEADER_BYTES = 1 << 20
_OPEN, _CLOSE = b"<page>", b"</page>"
_BETWEEN = re.compile(rb"\s*(?:</mediawiki>\s*)?")
_TITLE = re.compile(rb"<title>([^<]*)")


class Header(NamedTuple):
    """What a dump says of its wiki: the names of its namespaces by number, and its language."""

    namespaces: Mapping[int, str]
    language: str


class Page(NamedTuple):
    """A page with the wikitext of its last revision."""

    id: str
    title: str
    namespace: int
    redirect: bool
    wikitext: bool
    text: str


class NotADumpError(Exception):
    """The file does not start like a MediaWiki dump; the message says what is wrong."""


def header(path: Path) -> Header:
    """Reads what precedes the first page.

    Raises:
        NotADumpError: it is not the start of a dump, or declares a DOCTYPE or entities.
    """
    damage = Problems(skip=True)
    start = b""
    for chunk in chunks(Piece(path, path.stat().st_size), damage):
        start += chunk.data or b""
        if chunk.data is None or _OPEN in start or len(start) > HEADER_BYTES:
            break
    if not start:
        found = "; ".join(line.removeprefix(str(path)).lstrip(", :") for line in damage.skipped)
        raise NotADumpError(found or "the file is empty")
    start = start.partition(_OPEN)[0][:HEADER_BYTES]
    if b"<!DOCTYPE" in start or b"<!ENTITY" in start:
        raise NotADumpError("it declares a DOCTYPE or entities, which no MediaWiki dump does and which can be harmful")
    if b"<mediawiki" not in start:
        raise NotADumpError("it is not a MediaWiki XML dump (no <mediawiki> before the first page)")
    if chunk.data is None:
        return Header({}, "")
    try:
        root = ElementTree.fromstring(start if b"</mediawiki>" in start else start + b"</mediawiki>")
    except ElementTree.ParseError as error:
        raise NotADumpError(f"broken XML before the first page ({_fault(start, error)})") from error
    names = {int(e.get("key", 0)): e.text or "" for e in root.iter() if e.tag.endswith("}namespace")}
    return Header(names, root.get("{http://www.w3.org/XML/1998/namespace}lang", ""))


def pages(piece: Piece, names: Mapping[int, str], problems: Problems) -> Iterator[Page]:
    """Yields the pages of a piece; old dumps do not number their namespaces, but ``names`` gives the numbers."""
    for where, element in _elements(piece, problems):
        try:
            yield _page(ElementTree.fromstring(element), names)
        except ElementTree.ParseError as error:
            problems.report(where, f"broken XML ({_fault(element, error)})")
        except ValueError as error:
            problems.report(where, str(error))


def _page(root: ElementTree.Element, names: Mapping[int, str]) -> Page:
    title, number, namespace = (root.findtext(tag) for tag in ("title", "id", "ns"))
    if not title or not number:
        raise ValueError("the page has no <title> or no <id>")
    if namespace is None:
        prefix = title.partition(":")[0]
        namespace = next((str(key) for key, name in names.items() if name and name == prefix), "0")
    revisions = root.findall("revision")
    text = revisions[-1].findtext("text") if revisions else None
    model = revisions[-1].findtext("model") if revisions else None
    redirect = root.find("redirect") is not None
    return Page(number, title, int(namespace), redirect, model in (None, "wikitext"), text or "")


def _fault(xml: bytes, error: ElementTree.ParseError) -> str:
    """Says more than the parser, for which every bad byte is an "invalid token"."""
    try:
        xml.decode()
    except UnicodeDecodeError as bad:
        return f"byte {bad.start} of it is not UTF-8"
    zero = xml.find(b"\0")
    return f"byte {zero} of it is NUL" if zero >= 0 else str(error)


class _Window:
    """Some of the unpacked ``bytes`` of a piece, or of what follows it, from ``position`` on; see ``_elements``.

    ``end`` is the position where the piece ends, once that is reached; ``gap`` says that bytes are missing after the
    window.
    """

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self.bytes, self.position, self.gap = b"", 0, False
        self.end: int | None = None
        self._chunks = chunks

    def grow(self) -> bool:
        """Adds a chunk, unless it is the last before the end or before a gap."""
        chunk = None if self.gap else next(self._chunks, None)
        if chunk is None:
            return False
        if not chunk.own and self.end is None:
            self.end = self.position + len(self.bytes)
        self.gap = chunk.data is None
        self.bytes += chunk.data or b""
        return not self.gap

    def take(self, count: int) -> bytes:
        """The first bytes of the window, which moves behind them."""
        taken, self.bytes = self.bytes[:count], self.bytes[count:]
        self.position += len(taken)
        return taken

    def owns(self, position: int) -> bool:
        """Whether a place in the window belongs to the piece."""
        return self.end is None or position < self.end

    def to_page(self) -> tuple[bool, bytes]:
        """Moves to the next page; returns whether there is one before a gap or the end, and what precedes it (1 MB)."""
        passed = b""
        while (at := self.bytes.find(_OPEN)) < 0:
            passed = (passed + self.take(max(0, len(self.bytes) - len(_OPEN) + 1)))[:HEADER_BYTES]
            if not self.grow():
                return False, passed + self.take(len(self.bytes))
        return True, (passed + self.take(at))[:HEADER_BYTES]

    def take_page(self) -> bytes | None:
        """The bytes up to and with the next ``</page>``; None if it is too far away, or there is none."""
        searched = 0
        while (at := self.bytes.find(_CLOSE, searched)) < 0:
            searched = max(0, len(self.bytes) - len(_CLOSE) + 1)
            if len(self.bytes) > PAGE_BYTES or not self.grow():
                return None
        return self.take(at + len(_CLOSE))


def _elements(piece: Piece, problems: Problems) -> Iterator[tuple[str, bytes]]:
    """Yields (where, ``<page>…</page>``); reports everything else that stands between two pages."""

    def where(position: int, element: bytes = b"") -> str:
        title = _TITLE.search(element[:4096])
        name = f", page {html.unescape(title[1].decode(errors='replace'))!r}" if title else ""
        origin = f" of the part that starts at packed byte {piece.start}" if piece.start else ""
        return f"{piece.path}{name} at unpacked byte {position}{origin}"

    window = _Window(chunks(piece, problems))
    in_header = piece.start == 0  # no page yet
    lost = piece.start > 0  # what precedes the next page has been reported, or belongs to the piece before
    while True:
        found, between = window.to_page()
        if not found and window.gap:
            window.gap, lost = False, True
            continue
        known = _BETWEEN.fullmatch(between)
        if not found:
            complete = b"</mediawiki>" in between and (in_header or known)
            if not (complete or lost):
                problems.report(where(window.position), "the dump ends without </mediawiki>; is it cut off?")
            return
        if not (known or lost or in_header):
            what = f"{len(between)} bytes that are no page, after the page before"
            problems.report(where(window.position - len(between)), what)
        start = window.position
        if not window.owns(start):
            return
        in_header = lost = False
        element = window.take_page()
        if element is None:
            long = len(window.bytes) > PAGE_BYTES
            what = f"the page is longer than {PAGE_BYTES} bytes" if long else "the page is cut off"
            problems.report(where(start, window.bytes), what)
            window.take(len(_OPEN))
            lost = True
            continue
        starts = [match.start() for match in re.finditer(_OPEN, element)]
        for at, end in pairwise(starts):
            problems.report(where(start + at, element[at:end]), "the page has no </page>")
        if window.owns(start + starts[-1]):
            yield where(start + starts[-1], element[starts[-1] :]), element[starts[-1] :]
