"""JSON: an object per line, or the objects of an array or of a file that is no line each, with a key of text."""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from data_prep.corpus import Document, paragraphs, tidy
from data_prep.sources import Piece, ReadErrors
from data_prep.sources.files import LARGEST_DOCUMENT, READ_ERRORS, TARS, fault, is_stream, open_file, stem, whole
from data_prep.sources.lines import Lines, line_files, line_pieces

SUFFIXES = frozenset({".jsonl", ".json", ".ndjson"}) | TARS

PIECE = 64 << 20  # bytes

# The start of an array, or of an object over several lines, which need not end in the first bytes. A comma before
# another object ends a broken line.
_NO_LINES = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\[|\{(?:[^\n]*[:\[{])?\s*\n|\{[^\n]*,\s*\n(?!\s*\{))")
_START = 1 << 16  # bytes in which it is looked for
_BETWEEN = re.compile(r"\s*[\[,]?\s*")  # matches anywhere


def pieces(path: Path, encoding: str | None = None, text_column: str | None = None) -> list[Piece]:
    """Parts of 64 MB of a plain file of lines; one piece for any other."""
    if not encoding and not is_stream(path):
        with open_file(path) as file:
            if _is_by_line(file.read(_START)):
                return line_pieces(path, PIECE)
    return whole(path)


def documents(
    piece: Piece, problems: ReadErrors, text_column: str | None = None, encoding: str | None = None
) -> Iterator[Document]:
    """One document per object, whose text has the key ``text_column``, or ``text``; its line ends end paragraphs.

    ``a.b`` is the key ``b`` of the object ``a``, or of each in the list ``a``; each text of a list ends a paragraph.
    The id and title of a document are those of the object, if it has them. The id is otherwise the name of the file and
    the position of the line in it, in bytes, or the number of the object.
    """
    for name, lines in line_files(piece, SUFFIXES, problems, encoding):
        by_line = piece.start or _is_by_line(lines.peek()[:_START])
        for place, value in _of_lines(lines) if by_line else _of_objects(lines):
            try:
                yield _document(value, text_column or "text", f"{stem(name)}:{place}")
            except ValueError as error:
                lines.report(str(error), "" if by_line else f"object {place}")
        if not by_line:
            lines.report_others("objects")


def _is_by_line(start: bytes) -> bool:
    """Whether a file that starts with these bytes has an object per line, if need be by the end of the first."""
    if _NO_LINES.match(start):
        return False
    text = start.decode(errors="ignore").lstrip("\ufeff \t\r\n")
    try:
        end = json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return True
    return "\n" not in text[:end] and not text[end:].lstrip(" \t").startswith((",", "{"))


def _of_lines(lines: Lines) -> Iterator[tuple[int, Any]]:
    """The value of each line that is not empty, with its position in bytes."""
    for line in lines:
        if line and not line.isspace():
            try:
                yield lines.offset, json.loads(line)
            except (ValueError, RecursionError) as error:
                lines.report(f"not JSON ({error}); an object per line is expected")


def _of_objects(lines: Lines) -> Iterator[tuple[int, Any]]:
    """The values of an array, or that follow one another, numbered; what follows broken JSON cannot be read.

    A block and a value are in memory.
    """
    number, held, opened = 0, "", False
    decode = json.JSONDecoder().raw_decode
    try:
        for block in chain(codecs.iterdecode(lines.blocks(), "utf-8-sig"), [""]):
            held += block
            position, opened = 0, opened or held.lstrip()[:1] == "["
            while (start := _BETWEEN.match(held, position).end()) < len(held) and held[start] != "]":  # type: ignore[union-attr]
                try:
                    value, position = decode(held, start)
                except ValueError:  # perhaps its end is not yet held
                    if not block or len(held) - start > LARGEST_DOCUMENT:
                        raise
                    break
                number += 1
                yield number, value
            held = held[position:]
        if held.strip(" \t\r\n[,") != "]" * opened:
            raise ValueError("it ends inside the array" if opened else f"{held[:20]!r} at the end")
    except (ValueError, RecursionError, *READ_ERRORS) as error:
        where = f"{lines.where}: object {number + 1}"
        lines.problems.report(where, f"not JSON, cut off or damaged ({fault(error)})")


def _document(row: Any, column: str, name: str) -> Document:
    """The document of one object, called ``name`` if it has no id; raises ValueError if it cannot be used."""
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}; an object per line is expected")
    try:
        text = joined(value_at(row, [column] if column in row else column.split(".")))
    except KeyError:
        found = ", ".join(map(repr, _names(row))) or "nothing"
        raise ValueError(f"has no {column!r}, only {found}; see --text-column") from None
    except TypeError as error:
        raise ValueError(f"{column!r} is not text but {error}; see --text-column") from error
    key, title = row.get("id"), row.get("title")
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        key = name
    title = title if isinstance(title, str) else ""
    return row_document("jsonl", str(key), title, text)


def _names(row: dict[str, Any]) -> Iterator[str]:
    """The keys of an object, and as ``a.b`` those of the objects in it."""
    for key, value in row.items():
        yield from (f"{key}.{name}" for name in _names(value)) if isinstance(value, dict) and value else [key]


def value_at(row: Any, keys: Sequence[str]) -> Any:
    """The value under keys in keys, of each item of a list that has it; raises KeyError where there is none."""
    if not keys or row is None:
        return row
    if isinstance(row, list):
        having = [item for item in row if not isinstance(item, dict) or keys[0] in item]
        if row and not having:
            raise KeyError(keys[0])
        return [value_at(item, keys) for item in having]
    if not isinstance(row, dict):
        raise KeyError(keys[0])
    return value_at(row[keys[0]], keys[1:])


def joined(value: Any) -> str:
    """A text, or the texts of a list as paragraphs; none is empty. Raises TypeError for another value."""
    if isinstance(value, list):
        return "\n".join(map(joined, value))
    if not isinstance(value, str | None):
        raise TypeError(type(value).__name__)
    return value or ""


def row_document(source: str, name: str, title: str, text: str) -> Document:
    r"""The document of a row; raises ValueError for characters that only JSON's ``\u…`` or binary data can have."""
    everything = f"{name}{title}{text}"
    if "\0" in everything:
        raise ValueError("has a NUL character, so it is not text")
    try:
        everything.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half a character ({everything[error.start]!r})") from error
    return Document(name, source, title, tidy(paragraphs(text)))
