"""What is measured together: a cell is one process with its contestants, and one file of results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linformer_fairseq.io.files import replace_when_done
from recipes.reproduce.efficiency.contestants import CONTESTANTS, missing
from recipes.reproduce.efficiency.layers import Sizes

# Seconds of a training step beside a forward pass, and of bf16 beside fp32, roughly: for the remaining time only.
TRAINING, HALF = 3.0, 0.55


@dataclass(frozen=True)
class Entry:
    """One contestant at one size.

    Attributes:
        label: its name in the cell.
        tokens: of one step, in tokens/n inputs of n tokens.
    """

    label: str
    contestant: str
    sizes: Sizes
    tokens: int

    @property
    def batch(self) -> int:
        return self.tokens // self.sizes.n


@dataclass(frozen=True)
class Cell:
    """Entries that are measured under the same conditions.

    Attributes:
        kind: time (contestants of one n and k), linear (ours at several n, with equal tokens) or memory (one entry).
        dtype: fp32, or bf16 for autocast.
        mode: train (forward and backward, with dropout) or forward (evaluation, no gradients).
    """

    kind: str
    dtype: str
    mode: str
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """The name of its file."""
        first = self.entries[0]
        s = first.sizes
        where = f"n{s.n}-k{s.k}"
        if self.kind == "linear":
            where = f"k{s.k}-{first.tokens}-tokens"
        if self.kind == "memory":
            k = f"-k{s.k}" if CONTESTANTS[first.contestant].linear else ""
            where = f"{first.contestant}-n{s.n}{k}-{first.tokens}-tokens"
        return f"{self.kind}-{where}-{self.dtype}-{self.mode}-a{s.attention_dropout:g}"

    @property
    def work(self) -> float:
        """About how long one round takes, in no particular unit."""
        return sum(step_work(entry, self.mode, self.dtype) for entry in self.entries)


def step_work(entry: Entry, mode: str, dtype: str) -> float:
    """About how long one step takes, in no particular unit."""
    work = operations(entry.contestant, entry.sizes) * entry.tokens
    return work * (TRAINING if mode == "train" else 1) * (HALF if dtype == "bf16" else 1)


def operations(contestant: str, s: Sizes) -> float:
    """Multiplications and additions of the matrix products of a forward pass, per token."""
    about = CONTESTANTS[contestant]
    square, share = 2 * s.embed_dim**2, s.k / s.n
    feed_forward = 4 * s.embed_dim * s.ffn_dim
    if not about.linear:
        return feed_forward + 4 * square + 4 * s.embed_dim * s.n
    one_product = contestant.startswith(("ours", "bound", "products"))
    compress = 2 * s.embed_dim * s.k * (1 if one_product else 2)
    keys_values = 2 * square * (1 if contestant == "lucidrains" else share)
    core = 4 * s.embed_dim * s.k if about.core else 0
    return feed_forward + 2 * square + keys_values + compress + core


def plan(
    lengths: Sequence[int], ks: Sequence[int], contestants: Sequence[str], tokens: int, options: Sizes
) -> Iterator[tuple[Entry, ...]]:
    """The entries of the cells of a grid, k < n as in the paper; `options` has all that is not n and k."""
    rest = {key: value for key, value in asdict(options).items() if key not in ("n", "k")}
    for n in lengths:
        for k in ks:
            if k < n:
                step = max(tokens, n) // n * n
                yield tuple(Entry(name, name, Sizes(n, k, **rest), step) for name in contestants)


def time_cells(entries: Sequence[tuple[Entry, ...]], dtypes: Sequence[str], modes: Sequence[str]) -> Iterator[Cell]:
    """One cell for each n, k, dtype and mode."""
    for mode in modes:
        for dtype in dtypes:
            for cell in entries:
                yield Cell("time", dtype, mode, cell)


def memory_cells(entries: Sequence[tuple[Entry, ...]], dtypes: Sequence[str], modes: Sequence[str]) -> Iterator[Cell]:
    """One cell for each entry; those who know no k only once for each n."""
    seen = set()
    for mode in modes:
        for dtype in dtypes:
            for entry in (entry for cell in entries for entry in cell):
                cell = Cell("memory", dtype, mode, (entry,))
                if cell.name not in seen:
                    seen.add(cell.name)
                    yield cell


def linear_cells(
    lengths: Sequence[int], k: int, tokens: int, options: Sizes, dtypes: Sequence[str], modes: Sequence[str]
) -> Iterator[Cell]:
    """Ours at all lengths with the same number of tokens: in turns for the time, each alone for the memory."""
    rest = {key: value for key, value in asdict(options).items() if key not in ("n", "k")}
    entries = tuple(Entry(str(n), "ours", Sizes(n, k, **rest), tokens // n * n) for n in lengths if k < n)
    if len(entries) > 1:
        for mode in modes:
            for dtype in dtypes:
                yield Cell("linear", dtype, mode, entries)
        yield from memory_cells([entries], dtypes, modes)


def with_kept(cell: Cell, folder: Path) -> Cell | None:
    """What of the cell is to be run: None if its file has all its entries, else also those that are in the file.

    A contestant that was missing and is there now is to be run.
    """
    kept = read(folder / f"{cell.name}.json")
    if kept is None:
        return cell
    found = kept["entries"]
    if all(
        entry.label in found and not ("missing" in found[entry.label] and missing(entry.contestant) is None)
        for entry in cell.entries
    ):
        return None
    asked = {entry.label for entry in cell.entries}
    before = [
        Entry(label, old["contestant"], Sizes(**old["sizes"]), old["tokens"])
        for label, old in found.items()
        if label not in asked and old["contestant"] in CONTESTANTS
    ]
    return Cell(cell.kind, cell.dtype, cell.mode, (*cell.entries, *before))


def read(path: Path) -> dict[str, Any] | None:
    """The content of a file of results, if it is there."""
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def keep(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    with replace_when_done(path, force=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
