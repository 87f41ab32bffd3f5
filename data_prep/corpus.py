"""A corpus: a folder of Parquet files, one row per document.

The `text` of a document is its paragraphs, one per line, without empty lines and with single spaces. All later stages
rely on that form, so each source passes its text through `tidy`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.text.scripts import HAN_MARKS, IDEOGRAPHS, UNSPACED_LETTERS
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done

Counts = Counter[str]  # of `documents` and `characters`
Text = TypeVar("Text", bound=Sized)

_UNSPACED = "".join(f"{chr(a)}-{chr(b)}" for a, b in (*IDEOGRAPHS, *UNSPACED_LETTERS, *HAN_MARKS))
_UNSPACED_END = re.compile(rf"(?<=[{_UNSPACED}])\s*\n\s*(?=[{_UNSPACED}])")
_PARAGRAPH_END = re.compile("\r\n?|[\n\u2029]")

COLUMNS = ("id", "source", "title", "text", "sha256")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])

# A checksum for each page, since a flipped bit in a text is a text as well.
FORM: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}

# Bounds the memory of a process that reads a file.
ROW_GROUP_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Document:
    """One article, book or module: the unit that is hashed, deduplicated and split."""

    id: str
    source: str
    title: str
    text: str

    def __len__(self) -> int:
        return len(self.text)

    @property
    def sha256(self) -> str:
        """Hash of the text alone, so that equal texts of two sources have equal hashes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def tidy(lines: Iterable[str]) -> str:
    """Paragraphs, one per line: white space becomes single spaces, empty lines are removed."""
    return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))


def paragraphs(text: str) -> list[str]:
    r"""The parts of a text between its line ends (``\n``, ``\r``, ``\r\n``) and paragraph separators (U+2029).

    Unlike `str.splitlines`, it leaves form feeds, U+0085 and U+2028 in a paragraph, where `tidy` makes them spaces.
    """
    return _PARAGRAPH_END.split(text)


def join_wrapped(lines: Iterable[str]) -> Iterator[str]:
    """Join hard-wrapped lines, in scripts without spaces without one: a paragraph ends at an empty line."""
    groups = ("\n".join(group) for has_text, group in groupby(lines, lambda line: bool(line.strip())) if has_text)
    return (_UNSPACED_END.sub("", group).replace("\n", " ") for group in groups)


def write_file(documents: Iterable[Document], path: Path) -> Counts:
    """Write one Parquet file, possibly without rows; returns its counts. Equal documents give equal bytes."""
    counts: Counts = Counter(documents=0, characters=0)
    stream = iter(documents)
    with replace_when_done(path) as partial, pq.ParquetWriter(partial, SCHEMA, **FORM) as writer:
        while group := list(take(stream, ROW_GROUP_CHARACTERS)):
            rows = [{**vars(document), "sha256": document.sha256} for document in group]
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            counts.update(documents=len(group), characters=sum(map(len, group)))
    return counts


def write_files(documents: Iterable[Document], out: Path, prefix: str, characters: int) -> tuple[Counts, list[Path]]:
    """Write `out/prefix-000.parquet`, `-001` and so on, each of at least `characters` characters but the last."""
    counts: Counts = Counter(documents=0, characters=0)
    paths: list[Path] = []
    stream = iter(documents)
    for first in stream:
        paths.append(out / f"{prefix}-{len(paths):03d}.parquet")
        counts.update(write_file(chain([first], take(stream, characters - len(first))), paths[-1]))
    return counts, paths


def take(texts: Iterator[Text], characters: int) -> Iterator[Text]:
    """The next documents or strings until they have `characters`; none is consumed beyond these."""
    while characters > 0 and (text := next(texts, None)) is not None:
        characters -= len(text)
        yield text


def corpus_files(corpus: Path) -> list[Path]:
    """The Parquet files of a corpus, in the order in which every stage reads them."""
    paths = sorted(corpus.glob("*.parquet"))
    if not paths:
        raise UsageError(f"{corpus}: no .parquet files here; make them with `python -m data_prep extract`")
    for path in paths:
        try:
            missing = set(COLUMNS) - set(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path}: not a Parquet file ({error}); delete it and make it again") from error
        if missing:
            remedy = "import other Parquet files with `python -m data_prep extract --source parquet`"
            raise UsageError(f"{path}: no column {', '.join(sorted(missing))}; {remedy}")
    return paths


def read_file(path: Path) -> Iterator[Document]:
    """The documents of one file of a corpus."""
    return (Document(*row) for row in _rows(path, COLUMNS[:-1]))


def read_texts(path: Path) -> Iterator[str]:
    """The texts of one file of a corpus; faster than `read_file`."""
    return (text for (text,) in _rows(path, ("text",)))


def read_hashes(path: Path) -> Iterator[str]:
    """The SHA-256 of each document of one file of a corpus; UsageError for what is none."""
    for (sha256,) in _rows(path, ("sha256",)):
        if not re.fullmatch("[0-9a-f]{64}", sha256 or ""):
            raise UsageError(f"{path}: sha256 {sha256!r} is not one; make it again with `python -m data_prep extract`")
        yield sha256


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows = 0
            for number in range(file.num_row_groups):
                # Processes are what works side by side here; threads cost more than they gain.
                table = file.read_row_group(number, columns=list(columns), use_threads=False)
                fits = len(table) == file.metadata.row_group(number).num_rows and table.column_names == list(columns)
                if not fits or any(map(pa.types.is_binary, table.schema.types)):
                    raise pa.ArrowInvalid("its parts do not fit together")
                rows += len(table)
                yield from zip(*(column.to_pylist() for column in table.columns), strict=True)
            if rows != file.metadata.num_rows:
                raise pa.ArrowInvalid(f"{rows} of {file.metadata.num_rows} rows")
    except (pa.ArrowException, OSError, ValueError) as error:
        remedy = "add --verify to the command that wrote it, which makes it again"
        raise UsageError(f"{path}: damaged ({error}); {remedy}") from error
