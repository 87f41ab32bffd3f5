"""The pages of a MediaWiki XML dump, each parsed on its own.

Pages are found by their tags as bytes, which cannot stand in a page's text, where ``<`` is escaped. So a piece can
start anywhere, a broken page costs only itself, and memory is bounded by the largest page. A page belongs to the
piece in which its ``<page>`` begins.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from data_prep.problems import Problems
from data_prep.sources import Piece
from data_prep.sources.dump_bytes import Chunk, chunks

PAGE_BYTES = 16 << 20  # MediaWiki's own limit is 2 MiB of wikitext, up to six times as much when escaped
HEADER_BYTES = 1 << 20
_OPEN, _CLOSE = b"<page>", b"</page>"
_BETWEEN = re.compile(rb"\s*(?:</mediawiki>\s*)?")
_TITLE = re.compile(rb"<title>([^<]*)")


@dataclass(frozen=True)
class Header:
    """What a dump says of its wiki: the names of its namespaces by number, and its language."""

    namespaces: Mapping[int, str] = field(default_factory=dict)
    language: str = ""


@dataclass(frozen=True)
class Page:
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
    """Reads what stands before the first page.

    Raises:
        NotADumpError: it is not the start of a dump, or declares a DOCTYPE or entities.
    """
    damage = Problems(skip=True)
    start, complete = b"", True
    for chunk in chunks(Piece(path, path.stat().st_size), damage):
        start += chunk.data or b""
        complete = chunk.data is not None
        if not complete or _OPEN in start or len(start) > HEADER_BYTES:
            break
    if not start:
        raise NotADumpError(
            "; ".join(line.removeprefix(str(path)).lstrip(", :") for line in damage.skipped) or "the file is empty"
        )
    start = start.partition(_OPEN)[0][:HEADER_BYTES]
    if b"<!DOCTYPE" in start or b"<!ENTITY" in start:
        raise NotADumpError("it declares a DOCTYPE or entities, which no MediaWiki dump does and which can be harmful")
    if b"<mediawiki" not in start:
        raise NotADumpError("it is not a MediaWiki XML dump (no <mediawiki> before the first page)")
    if not complete:
        return Header()
    try:
        root = ElementTree.fromstring(start if b"</mediawiki>" in start else start + b"</mediawiki>")
    except ElementTree.ParseError as error:
        raise NotADumpError(f"broken XML before the first page ({_fault(start, error)})") from error
    names = {int(e.get("key", 0)): e.text or "" for e in root.iter() if e.tag.endswith("}namespace")}
    return Header(names, root.get("{http://www.w3.org/XML/1998/namespace}lang", ""))


def pages(piece: Piece, names: Mapping[int, str], problems: Problems) -> Iterator[tuple[str, Page]]:
    """Yields (where it stands, page) for every page of a piece.

    Args:
        names: the wiki's namespaces, to know the namespace of a page in dumps that are too old to say it.
    """
    for where, element in _PageFinder(piece, problems).elements():
        try:
            yield where, _page(ElementTree.fromstring(element), names)
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


class _PageFinder:
    """Walks over the bytes of a piece with a window that holds one page at most."""

    def __init__(self, piece: Piece, problems: Problems) -> None:
        self.piece = piece
        self.problems = problems
        self.chunks: Iterator[Chunk] = chunks(piece, problems)
        self.window = b""
        self.base = 0  # position of the window in the unpacked bytes of the piece
        self.end: int | None = None  # position of the end of the piece, once that is reached
        self.gap = False  # bytes are missing behind the window
        self.in_header = piece.start == 0  # no page yet
        self.lost = piece.start > 0  # what comes up to the next page was reported, or belongs to the piece before

    def more(self) -> bool:
        """Adds a chunk to the window, unless it is the last before the end or before a gap."""
        chunk = None if self.gap else next(self.chunks, None)
        if chunk is None:
            return False
        if not chunk.own and self.end is None:
            self.end = self.base + len(self.window)
        self.gap = chunk.data is None
        self.window += chunk.data or b""
        return not self.gap

    def drop(self, count: int) -> None:
        self.window = self.window[count:]
        self.base += count

    def where(self, position: int, element: bytes = b"") -> str:
        """Names a position, and the page whose start ``element`` is."""
        title = _TITLE.search(element[:4096])
        name = f", page {html.unescape(title[1].decode(errors='replace'))!r}" if title else ""
        if self.base == position == 0 and not name:
            return str(self.piece.path)
        origin = f" of the part that starts at packed byte {self.piece.start}" if self.piece.start else ""
        return f"{self.piece.path}{name} at unpacked byte {position}{origin}"

    def elements(self) -> Iterator[tuple[str, bytes]]:
        """Yields (where, ``<page>…</page>``); reports everything else that stands between two pages."""
        while True:
            found, between = self._to_page()
            if not found and self.gap:
                self.gap, self.lost = False, True
                continue
            known = _BETWEEN.fullmatch(between)
            if not found:
                whole = b"</mediawiki>" in between and (self.in_header or known)
                if not (whole or self.lost):
                    self.problems.report(self.where(self.base), "the dump ends without </mediawiki>; is it cut off?")
                return
            if not (known or self.lost or self.in_header):
                what = f"{len(between)} bytes that are no page, after the page before"
                self.problems.report(self.where(self.base - len(between)), what)
            if self.end is not None and self.base >= self.end:
                return
            self.lost = self.in_header = False
            yield from self._element()

    def _to_page(self) -> tuple[bool, bytes]:
        """Drops what stands before the next page; returns whether there is one, and (at most 1 MB of) that."""
        between = b""
        while True:
            at = self.window.find(_OPEN)
            passed = at if at >= 0 else max(0, len(self.window) - len(_OPEN) + 1)
            between = (between + self.window[:passed])[:HEADER_BYTES]
            self.drop(passed)
            if at >= 0:
                return True, between
            if not self.more():
                between += self.window
                self.drop(len(self.window))
                return False, between

    def _element(self) -> Iterator[tuple[str, bytes]]:
        """Takes the page at which the window starts."""
        searched = 0
        while (at := self.window.find(_CLOSE, searched)) < 0:
            searched = max(0, len(self.window) - len(_CLOSE) + 1)
            if len(self.window) > PAGE_BYTES:
                self.problems.report(self.where(self.base, self.window), f"the page is longer than {PAGE_BYTES} bytes")
                self._drop_page()
                return
            if not self.more():
                self.problems.report(self.where(self.base, self.window), "the page is cut off")
                self.drop(len(self.window))
                self.lost = True
                return
        element, position = self.window[: at + len(_CLOSE)], self.base
        self.drop(len(element))
        starts = [match.start() for match in re.finditer(_OPEN, element)]
        for start, end in pairwise(starts):
            self.problems.report(self.where(position + start, element[start:end]), "the page has no </page>")
        if self.end is None or position + starts[-1] < self.end:
            yield self.where(position + starts[-1], element[starts[-1] :]), element[starts[-1] :]

    def _drop_page(self) -> None:
        while (at := self.window.find(_CLOSE)) < 0:
            self.drop(len(self.window) - len(_CLOSE) + 1)
            if not self.more():
                self.drop(len(self.window))
                self.lost = True
                return
        self.drop(at + len(_CLOSE))
