"""The pages of a MediaWiki XML dump, each parsed on its own.

Pages are found by their tags as bytes, which cannot occur in a page's text, where ``<`` is escaped. So a piece can
start anywhere, a broken page costs only itself, and memory is bounded by the largest page. A page belongs to the
piece in which its ``<page>`` begins.
"""

import html
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from data_prep.sources import Piece, ReadErrors
from data_prep.sources.dump_bytes import Chunk, chunks

PAGE_BYTES = 16 << 20  # MediaWiki's own limit is 2 MiB of wikitext, up to six times as much when escaped
HEADER_BYTES = 1 << 20
_OPEN, _CLOSE = b"<page>", b"</page>"
_TAG = re.compile(rb"(</?page>)")
_END = Chunk(None, True)  # the end of the file
_BETWEEN = re.compile(rb"\s*(?:</mediawiki>\s*)?")
_TITLE = re.compile(rb"<title>([^<]*)")


class Header(NamedTuple):
    """What a dump says of its wiki."""

    namespaces: Mapping[int, str]  # names by number
    language: str


class Page(NamedTuple):
    """A page with the text of its last revision."""

    id: str
    title: str
    namespace: int
    redirect: bool
    wikitext: bool
    text: str


def header(path: Path) -> Header:
    """Read what precedes the first page; raises ValueError if it is not, or not only, the start of a dump."""
    damage = ReadErrors(skip=True)
    start = b""
    for chunk in chunks(Piece(path, 0), damage):
        start += chunk.data or b""
        if chunk.data is None or _OPEN in start or len(start) > HEADER_BYTES:
            break
    if not start:
        found = "; ".join(line.removeprefix(str(path)).lstrip(", :") for line in damage.skipped)
        raise ValueError(found or "the file is empty")
    start = start.partition(_OPEN)[0][:HEADER_BYTES]
    if b"<!DOCTYPE" in start or b"<!ENTITY" in start:
        raise ValueError("it declares a DOCTYPE or entities, which no MediaWiki dump does and which can be harmful")
    if b"<mediawiki" not in start:
        raise ValueError("it is not a MediaWiki XML dump (no <mediawiki> before the first page)")
    if chunk.data is None:
        return Header({}, "")
    try:
        root = ElementTree.fromstring(start if b"</mediawiki>" in start else start + b"</mediawiki>")
    except ElementTree.ParseError as error:
        raise ValueError(f"broken XML before the first page ({_fault(start, error)})") from error
    names = {int(e.get("key", 0)): e.text or "" for e in root.iterfind(".//{*}namespace")}
    return Header(names, root.get("{http://www.w3.org/XML/1998/namespace}lang", ""))


def pages(piece: Piece, names: Mapping[int, str], problems: ReadErrors) -> Iterator[Page]:
    """Yield the pages of a piece; old dumps do not number their namespaces, but ``names`` gives the numbers."""
    for where, element in _elements(piece, problems):
        try:
            root = ElementTree.fromstring(element)
            title, number, namespace = (root.findtext(tag) for tag in ("title", "id", "ns"))
            if not title or not number:
                raise ValueError("the page has no <title> or no <id>")
            if namespace is None:
                prefix = title.partition(":")[0]
                namespace = next((str(key) for key, name in names.items() if name and name == prefix), "0")
            text = root.findtext("revision[last()]/text", "")
            wikitext = root.findtext("revision[last()]/model", "wikitext") == "wikitext"
            yield Page(number, title, int(namespace), root.find("redirect") is not None, wikitext, text)
        except ElementTree.ParseError as error:
            problems.report(where, f"broken XML ({_fault(element, error)})")
        except ValueError as error:
            problems.report(where, str(error))


def _fault(xml: bytes, error: ElementTree.ParseError) -> str:
    """Say more than the parser, for which every bad byte is an "invalid token"."""
    try:
        xml.decode()
    except UnicodeDecodeError as bad:
        return f"byte {bad.start} of it is not UTF-8"
    zero = xml.find(b"\0")
    return f"byte {zero} of it is NUL" if zero >= 0 else str(error)


def _elements(piece: Piece, problems: ReadErrors) -> Iterator[tuple[str, bytes]]:
    """Yield (where, ``<page>…</page>``); reports everything else between two pages."""

    def where(position: int, element: bytes = b"") -> str:
        title = _TITLE.search(element[:4096])
        name = f", page {html.unescape(title[1].decode(errors='replace'))!r}" if title else ""
        origin = f" of the part that starts at packed byte {piece.start}" if piece.start else ""
        return f"{piece.path}{name} at unpacked byte {position}{origin}"

    held, position = b"", 0  # what follows the last tag, and where that is in the unpacked bytes
    end: int | None = None  # where the piece ends, once that is reached
    start: int | None = None  # where the page begins that `held` is a part of
    in_header = piece.start == 0  # no page yet
    lost = piece.start > 0  # what precedes the next page has been reported, or belongs to the piece before
    for chunk in chain(chunks(piece, problems), [_END]):
        if not chunk.own and end is None:
            end = position + len(held)
        *parts, held = _TAG.split(held + (chunk.data or b""))
        for text, tag in zip(parts[::2], parts[1::2], strict=True):
            if start is not None and tag == _CLOSE:
                yield where(start, text), _OPEN + text + _CLOSE
                start = None
            else:
                if start is not None:
                    problems.report(where(start, text), "the page has no </page>")
                elif not (lost or in_header or (tag == _OPEN and _BETWEEN.fullmatch(text))):
                    problems.report(where(position), f"{len(text)} bytes that are no page, after the page before")
                if tag == _OPEN:
                    start = position + len(text)
                    if end is not None and start >= end:
                        return
                    lost = in_header = False
            position += len(text) + len(tag)
        too_long = len(held) > PAGE_BYTES
        if too_long and start is None:  # no page for long: most of it need not be held
            position, held = position + len(held) - HEADER_BYTES, held[-HEADER_BYTES:]
        elif too_long or chunk.data is None:
            position += len(held)
            if start is not None:
                fault = "the page is cut off" if chunk.data is None else f"the page is longer than {PAGE_BYTES} bytes"
                problems.report(where(start, held), fault)
            elif chunk is _END and not lost:
                if not (b"</mediawiki>" in held and (in_header or _BETWEEN.fullmatch(held))):
                    problems.report(where(position), "the dump ends without </mediawiki>; is it cut off?")
            held, start, lost = b"", None, True
