"""The pages of a MediaWiki XML dump: plain, .bz2 (one stream or many), .gz, .xz or .zst, each page parsed on its own.

A dump is cut into pieces without unpacking it: anywhere if it is plain, between two streams if it is bzip2. Pages are
found by their tags as bytes, which cannot occur in a page's text, where ``<`` is escaped. So a broken page costs only
itself, and memory is bounded by the largest page. A page belongs to the piece in which its ``<page>`` begins, and may
end beyond it.
"""

import bz2
import html
import re
from collections.abc import Iterator, Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from xml.etree import ElementTree

from data_prep.sources import Piece, ReadErrors
from data_prep.sources.files import BZ2_STREAM, READ_ERRORS, fault, open_file, opened, packing, read_block, size_of

PLAIN_PIECE = 128 << 20  # bytes
BZ2_PIECE = 32 << 20  # about as much text as PLAIN_PIECE
PAGE_BYTES = 16 << 20  # MediaWiki's own limit is 2 MiB of wikitext, up to six times as much when escaped
HEADER_BYTES = 1 << 20
_READ = 1 << 16  # packed bytes at a time; bz2 copies what is left of them at every end of a stream
_UNPACK = 1 << 20  # unpacked bytes at a time, whatever the ratio
_MAGIC_BYTES = 10  # of BZ2_STREAM, which do not occur by chance
_OPEN, _CLOSE = b"<page>", b"</page>"
_TAG = re.compile(rb"(</?page>)")
_BETWEEN = re.compile(rb"\s*(?:</mediawiki>\s*)?")
_TITLE = re.compile(rb"<title>([^<]*)")

# Consecutive bytes, or None where bytes are missing; and whether they are within the piece.
_Chunk = tuple[bytes | None, bool]


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


def pieces(path: Path, piece_bytes: int | None = None, **_: Any) -> list[Piece]:
    """Pieces of about ``piece_bytes`` on disk; what is not bzip2 of many streams or plain XML is one piece."""
    size = size_of(path)
    cuts = [0]
    with open_file(path) as file:
        packed = packing(file)
        if packed == "bz2":
            while (cut := _next_bz2_stream(file, cuts[-1] + (piece_bytes or BZ2_PIECE))) is not None:
                cuts.append(cut)
        elif not packed:
            step = piece_bytes or PLAIN_PIECE
            cuts += range(step, size, step)
    return [Piece(path, end - start, start, end) for start, end in pairwise([*cuts, size])]


def header(path: Path) -> Header:
    """Read what precedes the first page; raises ValueError if it is not, or not only, the start of a dump."""
    damage = ReadErrors(skip=True)
    start = b""
    for data, _ in _chunks(Piece(path, 0), damage):
        start += data or b""
        if data is None or _OPEN in start or len(start) > HEADER_BYTES:
            break
    if not start:
        raise ValueError("".join(damage.skipped).removeprefix(str(path)).lstrip(", :") or "the file is empty")
    start = start.partition(_OPEN)[0][:HEADER_BYTES]
    if b"<!DOCTYPE" in start or b"<!ENTITY" in start:
        raise ValueError("it declares a DOCTYPE or entities, which no MediaWiki dump does and which can be harmful")
    if b"<mediawiki" not in start:
        raise ValueError("it is not a MediaWiki XML dump (no <mediawiki> before the first page)")
    if damage.skipped:
        return Header({}, "")
    try:
        root = ElementTree.fromstring(start if b"</mediawiki>" in start else start + b"</mediawiki>")
    except ElementTree.ParseError as error:
        raise ValueError(f"broken XML before the first page ({_xml_fault(start, error)})") from error
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
            problems.report(where, f"broken XML ({_xml_fault(element, error)})")
        except ValueError as error:
            problems.report(where, str(error))


def _xml_fault(xml: bytes, error: ElementTree.ParseError) -> str:
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
    for data, own in chain(_chunks(piece, problems), [(b"", True)]):  # no bytes: the end of the file
        if not own and end is None:
            end = position + len(held)
        *parts, held = _TAG.split(held + (data or b""))
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
        elif too_long or not data:
            position += len(held)
            if start is not None:
                what = f"the page is longer than {PAGE_BYTES} bytes" if data else "the page is cut off"
                problems.report(where(start, held), what)
            elif data == b"" and not lost:
                if not (b"</mediawiki>" in held and (in_header or _BETWEEN.fullmatch(held))):
                    problems.report(where(position), "the dump ends without </mediawiki>; is it cut off?")
            held, start, lost = b"", None, True


def _chunks(piece: Piece, problems: ReadErrors) -> Iterator[_Chunk]:
    """The unpacked bytes of a piece and of what follows it; only damage within the piece is reported."""
    end = size_of(piece.path) if piece.end is None else piece.end
    with open_file(piece.path) as file:
        packed = packing(file)
        if packed == "bz2":
            yield from _bz2_chunks(file, piece, end, problems)
            return
    position = piece.start  # of .gz, .xz and .zst, in the unpacked file, which is all one piece
    try:
        with opened(piece.path) as unpacked:
            if not packed:
                unpacked.seek(position)
            while data := read_block(unpacked, min(_UNPACK, max(0, end - position)) or _UNPACK):
                position += len(data)
                yield data, bool(packed) or position <= end
    except READ_ERRORS as error:
        problems.report(f"{piece.path}, after unpacked byte {position}", f"cut off or damaged ({fault(error)})")
        yield None, True


def _bz2_chunks(file: BinaryIO, piece: Piece, end: int, problems: ReadErrors) -> Iterator[_Chunk]:
    start: int | None = piece.start
    while start is not None:
        own = start < end
        file.seek(start)
        unpacker = bz2.BZ2Decompressor()
        try:
            while not unpacker.eof:
                packed = file.read(_READ) if unpacker.needs_input else b""
                if unpacker.needs_input and not packed:
                    raise EOFError("it ends within a stream")
                if data := unpacker.decompress(packed, _UNPACK):
                    yield data, own
        except (OSError, EOFError) as error:  # bz2 reports damage as a plain OSError
            after, damage = start + 1, f"the .bz2 is cut off or damaged ({error})"
        else:
            after = file.tell() - len(unpacker.unused_data)
            file.seek(after)
            following = file.read(_MAGIC_BYTES)
            if not following:
                return
            damage = "" if BZ2_STREAM.match(following) else "what follows is not a bzip2 stream"
        if damage:
            if own:
                problems.report(f"{piece.path}, bzip2 stream at byte {start}", damage)
            yield None, own
        start = _next_bz2_stream(file, after)


def _next_bz2_stream(file: BinaryIO, position: int) -> int | None:
    """The first start of a bzip2 stream at or after ``position``."""
    file.seek(position)
    kept = b""
    while data := file.read(_UNPACK):
        data = kept + data
        if found := BZ2_STREAM.search(data):
            return file.tell() - len(data) + found.start()
        kept = data[1 - _MAGIC_BYTES :]
    return None
