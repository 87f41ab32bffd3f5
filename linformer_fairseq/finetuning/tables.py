"""Texts and labels from a table: TSV, CSV, JSON lines or Parquet, each row checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from linformer_fairseq.errors import UsageError
from linformer_fairseq.tables import read_rows


@dataclass(frozen=True)
class Layout:
    """Where a table has what.

    Attributes:
        text: one or two columns of text.
        label: column of the label or score; None for a table without.
        header: names of the columns of a TSV or CSV file that has no line for them.
        quoted: whether `"` encloses fields of a TSV file; those of GLUE have stray ones that mean themselves.
    """

    text: tuple[str, ...]
    label: str | None = None
    header: tuple[str, ...] | None = None
    quoted: bool = False


@dataclass
class Table:
    """The rows of one file, in its order.

    Attributes:
        path: the file.
        texts: of each row, one or two.
        labels: of each row, as they stand in the file; None without a label column.
        broken: rows that have other columns than the first line says, left out.
    """

    path: Path
    texts: list[tuple[str, ...]] = field(default_factory=list)
    labels: list[str] | None = None
    broken: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def split(self, share: float) -> tuple[Table, Table]:
        """Two tables: the rest, and about that share of the rows; rows with the same texts stay together.

        A row's place depends on its texts alone, not on other rows or on chance.
        """
        parts = tuple(Table(self.path, labels=None if self.labels is None else []) for _ in range(2))
        for row, texts in enumerate(self.texts):
            digest = hashlib.sha256("\t".join(texts).encode()).digest()
            part = parts[int.from_bytes(digest[:8], "big") < share * 2**64]
            part.texts.append(texts)
            if part.labels is not None and self.labels is not None:
                part.labels.append(self.labels[row])
        return parts[0], parts[1]


def read_table(path: Path, layout: Layout, skip_broken: bool = False) -> Table:
    """Reads a table.

    Args:
        path: its suffix says what it is.
        layout: its columns.
        skip_broken: leave rows with a wrong number of columns out, counted, instead of stopping.

    Raises:
        UsageError: no such file or column, not UTF-8, a broken row or one without text or label; with the row.
    """
    table = Table(path, labels=None if layout.label is None else [])
    columns = (*layout.text, *(() if layout.label is None else (layout.label,)))
    for number, row in read_rows(path, columns, layout.header, layout.quoted):
        if row is None:
            if not skip_broken:
                raise UsageError(f"{path}: row {number} has other columns than the first line; repair or remove it")
            table.broken.append(number)
            continue
        texts = tuple(" ".join(row[name].split()) for name in layout.text)
        for name, text in zip(layout.text, texts, strict=True):
            if not text:
                raise UsageError(f"{path}: row {number} has no text in column {name}; fill or remove it")
        if table.labels is not None and layout.label is not None:
            label = row[layout.label].strip()
            if not label:
                raise UsageError(f"{path}: row {number} has nothing in column {layout.label}; fill or remove it")
            table.labels.append(label)
        table.texts.append(texts)
    if not table.texts:
        raise UsageError(f"{path}: has no rows")
    return table
