"""What has been measured, as the report asks for it: medians, ratios within a round, memory per token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from recipes.reproduce.efficiency.cells import read
from recipes.reproduce.efficiency.contestants import CONTESTANTS

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Conditions:
    """What the figures of one table have in common."""

    mode: str
    dtype: str
    attention_dropout: float

    def __str__(self) -> str:
        mode = "forward and backward" if self.mode == "train" else "forward"
        return f"{mode}, {self.dtype}, attention dropout {self.attention_dropout:g}"


class Results:
    """All cells of a folder."""

    def __init__(self, folder: Path) -> None:
        self.settings = read(folder / "settings.json") or {}
        self.cells = [
            cell
            for kind in ("time", "memory", "linear")
            for path in sorted(folder.glob(f"{kind}-*.json"))
            if (cell := read(path)) is not None
        ]
        self._times: dict[tuple[Conditions, int, int], Mapping[str, Entry]] = {}
        self._linear: dict[tuple[Conditions, int], Mapping[str, Entry]] = {}
        self._memory: dict[tuple[Conditions, str, int, int | None, int], Entry] = {}
        for cell in self.cells:
            for entry in cell["entries"].values():
                s = entry["sizes"]
                conditions = Conditions(cell["mode"], cell["dtype"], s["attention_dropout"])
                if cell["kind"] == "time":
                    self._times[conditions, s["n"], s["k"]] = cell["entries"]
                elif cell["kind"] == "linear":
                    self._linear[conditions, s["k"]] = cell["entries"]
                else:
                    k = s["k"] if CONTESTANTS[entry["contestant"]].linear else None
                    self._memory[conditions, entry["contestant"], s["n"], k, entry["tokens"]] = entry

    def conditions(self) -> list[Conditions]:
        """Of all tables: training first, fp32 first, less dropout first."""
        found = {key[0] for group in (self._times, self._memory) for key in group}
        return sorted(found, key=lambda c: (c.attention_dropout, c.mode != "train", c.dtype != "fp32"))

    def time_rows(self, conditions: Conditions) -> Iterator[tuple[int, int, Mapping[str, Entry]]]:
        """n, k and the entries by contestant."""
        for (found, n, k), entries in sorted(self._times.items(), key=lambda item: item[0][1:]):
            if found == conditions:
                yield n, k, entries

    def linear_rows(self, conditions: Conditions) -> Iterator[tuple[int, Mapping[str, Entry]]]:
        """k and the entries by length."""
        for (found, k), entries in sorted(self._linear.items(), key=lambda item: item[0][1]):
            if found == conditions:
                yield k, entries

    def memory_sizes(self, conditions: Conditions) -> list[tuple[int, int]]:
        """n and k of the rows of the memory table."""
        return sorted(
            {
                (n, k)
                for found, _, n, k, tokens in self._memory
                if found == conditions and k is not None and tokens == self.tokens(n)
            }
        )

    def memory(self, conditions: Conditions, contestant: str, n: int, k: int, tokens: int | None = None) -> Entry:
        """The entry; empty if there is none."""
        key = k if CONTESTANTS[contestant].linear else None
        return self._memory.get((conditions, contestant, n, key, tokens or self.tokens(n)), {})

    def tokens(self, n: int) -> int:
        """Tokens of a step at this length."""
        return max(int(self.settings["tokens"]), n) // n * n

    def ratio(self, conditions: Conditions, n: int, k: int, other: str) -> float | None:
        """How many times as fast ours is; None if not measured."""
        entries = self._times.get((conditions, n, k), {})
        return time_ratio(entries.get("ours", {}), entries.get(other, {}))

    def memory_ratio(self, conditions: Conditions, n: int, k: int, other: str) -> float | None:
        """Memory of ours as a share of that of the other; None if not measured."""
        ours, others = (self.memory(conditions, name, n, k).get("bytes") for name in ("ours", other))
        return ours / others if ours and others else None


def seconds(entry: Entry) -> list[float]:
    """Of a step, in the rounds that it took part in."""
    return [value for value in entry.get("seconds", []) if value is not None]


def speed(entry: Entry) -> float | None:
    """Tokens per second, median; None if not measured."""
    found = seconds(entry)
    return entry["tokens"] / median(found) if found else None


def time_ratio(one: Entry, other: Entry) -> float | None:
    """Tokens per second of one, relative to the other: the median over the rounds in which both took part."""
    pairs = zip(one.get("seconds", []), other.get("seconds", []), strict=False)
    found = [(one["tokens"] / mine) / (other["tokens"] / theirs) for mine, theirs in pairs if mine and theirs]
    return median(found) if found else None
