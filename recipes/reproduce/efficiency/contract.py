"""What is required of our layer, and what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recipes.reproduce.efficiency import paper
from recipes.reproduce.efficiency.cells import operations
from recipes.reproduce.efficiency.layers import Sizes
from recipes.reproduce.efficiency.results import Conditions, Results, time_ratio

K = 256
# dtype, other contestant, n -> at least so many times as fast in training
FASTER = (
    ("fp32", "fairseq", {512: 1.2, 4096: 1.2, 16384: 1.35}),
    ("bf16", "fairseq", {512: 1.4, 4096: 1.4, 16384: 1.4}),
    ("fp32", "exact", {512: 1.2, 4096: 2.2, 16384: 5.8, 32768: 10.0}),
    ("bf16", "exact", {4096: 3.0, 16384: 8.5}),
)
# other contestant -> at most this share of its memory in training
SMALLER = {"fairseq": 0.66, "exact": 1.0}
MEMORY_LENGTHS = (512, 4096, 16384)
BOUND = 1.15  # times the seconds of the bound
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
SHORT, LONG = 1024, 65536
FLAT_SPEED, FLAT_MEMORY = 0.9, 0.05
ARITHMETIC = 0.9  # of the ratio of operations, on a GPU


@dataclass(frozen=True)
class Line:
    """One requirement.

    Attributes:
        text: what is compared.
        required: the least or the most; None if that depends on what is measured.
        seen: what was measured; None if nothing was.
        least: whether `required` is the least.
    """

    text: str
    required: float | None
    seen: float | None
    least: bool = True

    @property
    def met(self) -> bool | None:
        """None if not measured."""
        if self.seen is None or self.required is None:
            return None
        return self.seen >= self.required if self.least else self.seen <= self.required


def contract(results: Results, attention_dropout: float) -> Iterator[Line]:
    """All requirements, in the order of their list, for cells of k = 256 unless they say otherwise."""
    train = {dtype: Conditions("train", dtype, attention_dropout) for dtype in ("fp32", "bf16")}
    for dtype, other, lengths in FASTER:
        for n, least in lengths.items():
            yield Line(f"speed, {dtype}, n = {n:,}, ours / {other}", least, results.ratio(train[dtype], n, K, other))
    for dtype in train:
        for other, most in SMALLER.items():
            for n in MEMORY_LENGTHS:
                seen = results.memory_ratio(train[dtype], n, K, other)
                yield Line(f"memory, {dtype}, n = {n:,}, ours / {other}", most, seen, least=False)
    for mode in ("train", "forward"):
        for dtype in train:
            yield from _paper_lines(results, Conditions(mode, dtype, attention_dropout))
    for dtype in train:
        for n in LENGTHS:
            ratio = results.ratio(train[dtype], n, K, "bound")
            seen = None if ratio is None else 1 / ratio
            yield Line(f"seconds, {dtype}, n = {n:,}, ours / bound", BOUND, seen, least=False)
    for dtype in train:
        yield from _linear_lines(results, train[dtype])
    if str(results.settings.get("device", "")).find("cores") < 0:
        yield from _arithmetic_lines(results, train["bf16"])


def _paper_lines(results: Results, conditions: Conditions) -> Iterator[Line]:
    """For each n and k where the paper's baseline fits into memory."""
    what = f"speed, {conditions.mode}, {conditions.dtype}, {{}}, ours / plain; required is the paper's"
    found = [
        Line(what.format(f"n = {n:,}, k = {k:,}"), paper.figure(paper.TIME, n, k), seen)
        for n, k, _ in results.time_rows(conditions)
        if (seen := results.ratio(conditions, n, k, "plain")) is not None and paper.figure(paper.TIME, n, k)
    ]
    yield from found or [Line(what.format("any n and k"), None, None)]


def _linear_lines(results: Results, conditions: Conditions) -> Iterator[Line]:
    entries = next((found for k, found in results.linear_rows(conditions) if k == K), {})
    long, short = entries.get(str(LONG), {}), entries.get(str(SHORT), {})
    what = f"{conditions.dtype}, n = {LONG:,} / n = {SHORT:,}, ours"
    yield Line(f"speed, {what}", FLAT_SPEED, time_ratio(long, short))
    memory = [results.memory(conditions, "ours", n, K, LONG) for n in (LONG, SHORT)]
    shares = [entry["bytes"] / entry["tokens"] for entry in memory if "bytes" in entry]
    seen = abs(shares[0] / shares[1] - 1) if len(shares) == 2 else None
    yield Line(f"memory per token, {what}: change", FLAT_MEMORY, seen, least=False)


def _arithmetic_lines(results: Results, conditions: Conditions) -> Iterator[Line]:
    """On a GPU, where the exact layer runs near its arithmetic."""
    for n, k, entries in results.time_rows(conditions):
        if n >= 4096 and "exact" in entries and "ours" in entries:
            sizes = Sizes(**entries["ours"]["sizes"])
            required = ARITHMETIC * operations("exact", sizes) / operations("ours", sizes)
            yield Line(
                f"speed, bf16, n = {n:,}, k = {k:,}, ours / exact; required is {ARITHMETIC} of the ratio of operations",
                required,
                results.ratio(conditions, n, k, "exact"),
            )
