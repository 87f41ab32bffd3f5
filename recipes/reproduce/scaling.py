"""How the loss of two recipes falls with size and tokens: tiny_n512_k128 (Adam) and tiny_n512_k128_muon.

    python recipes/reproduce/scaling.py DATA --parallel 2 --out RUN --report docs/benchmarks/scaling
    python recipes/reproduce/scaling.py DATA --sizes 4x256 --updates 400 --rates 0.5 --parallel 2 --out RUN

Every size trains for every number of updates of 4,096 tokens, with a schedule that ends there, by the real
fairseq-train on one CPU thread with the same data. --rates multiplies the recipe's learning rate; where several were
tried, as by the second command, which adds to the first, the best counts. Both recipes have the streaming task and the
fused loss, which is that of `masked_lm`. To the losses of each recipe a curve is fitted, over the parameters of the
layers, which do the computing, and tokens: ln(loss) = a - b ln(parameters) - c ln(tokens).
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring import study
from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Options, Results, flag, in_a_process, markdown
from linformer_fairseq.measuring.trainings import TOKENS, train_variant
from linformer_fairseq.paths import RECIPES
from linformer_fairseq.ranges import real

RATE = {"tiny_n512_k128": 2e-3, "tiny_n512_k128_muon": 6e-3}  # the recipes and their learning rates
ADAM, MUON = RATE
SAME = {"task._name": "streaming_masked_lm", "criterion._name": "fused_masked_lm"}
HEAD = 32  # channels of a head
CELL = re.compile(r"(\S+), (\d+)x(\d+), (\d+) updates, lr (\S+)")


class Training(NamedTuple):
    """What a cell's name says, and its result."""

    recipe: str
    layers: int
    channels: int
    updates: int
    rate: float
    loss: float  # nats, of validation
    minutes: float  # of a processor core

    @property
    def size(self) -> str:
        return f"{self.layers}x{self.channels}"

    @property
    def parameters(self) -> int:
        """Of the layers' matrices: 4 of attention, 8 of the feed-forward sublayer."""
        return 12 * self.layers * self.channels**2

    @property
    def tokens(self) -> int:
        return self.updates * TOKENS


def measure(options: Options, cells: Cells) -> None:
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    work = {}
    # The largest first, so that nothing long is left for one thread at the end.
    for size, updates in product(sorted(options.sizes, key=area, reverse=True), sorted(options.updates, reverse=True)):
        for recipe, rate in product(RATE, options.rates):
            name = f"{recipe}, {size}, {updates} updates, lr {rate * RATE[recipe]:g}"
            settings = SAME | shape(size) | {"optimization.lr": [rate * RATE[recipe]]}
            settings["dataset.validate_interval_updates"] = updates
            file, run = RECIPES / f"pretrain/{recipe}.yaml", options.out / name
            work[name] = in_a_process(train_variant, name, settings, options.data, run, updates, file)
    cells.run(work, parallel=options.parallel)


def area(size: str) -> int:
    """Layers times squared channels of a size like 2x128."""
    if not (found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)) or int(found[2]) % HEAD:
        raise UsageError(f"--sizes {size}: must be LAYERSxCHANNELS with a multiple of {HEAD} channels, such as 4x256")
    return int(found[1]) * int(found[2]) ** 2


def shape(size: str) -> dict[str, Any]:
    """Settings of the model."""
    layers, channels = map(int, size.split("x"))
    model = {"layers": layers, "embed_dim": channels, "ffn_embed_dim": 4 * channels}
    model["attention_heads"] = channels // HEAD
    return {f"model.encoder_{name}": value for name, value in model.items()}


def trainings(results: Results) -> list[Training]:
    """All, the smallest first."""
    found = []
    for name, metrics in results["cells"].items():
        recipe, layers, channels, updates, rate = CELL.fullmatch(name).groups()  # type: ignore[union-attr]
        last = [point for point in metrics if point["split"] == "valid"][-1]
        minutes, sizes = metrics[-1]["cpu_seconds"] / 60, (int(layers), int(channels), int(updates))
        found.append(Training(recipe, *sizes, float(rate), math.log(last["perplexity"]), minutes))
    return sorted(found, key=lambda one: (one.parameters, one.updates, one.recipe, one.rate))


def best(results: Results, recipe: str) -> dict[tuple[str, int], Training]:
    """Of each size and number of updates, the training of a recipe at the best of the rates tried."""
    found: dict[tuple[str, int], Training] = {}
    for one in trainings(results):
        if one.recipe == recipe:
            found[one.size, one.updates] = min(one, found.get((one.size, one.updates), one), key=lambda t: t.loss)
    return found


class Fit(NamedTuple):
    """ln(loss) = a - b ln(parameters) - c ln(tokens), by least squares."""

    a: float
    b: float
    c: float
    residual: float  # root of the mean square, of ln(loss)

    @classmethod
    def of(cls, found: list[Training]) -> "Fit | None":
        """None if sizes and budgets do not vary apart."""
        x = np.array([[1, -math.log(one.parameters), -math.log(one.tokens)] for one in found])
        y = np.log([one.loss for one in found])
        coefficients, _, rank, _ = np.linalg.lstsq(x, y)
        if rank < len(coefficients):
            return None
        a, b, c = map(float, coefficients)
        return cls(a, b, c, float(np.sqrt(np.mean((x @ coefficients - y) ** 2))))


def needed(curve: list[Training], loss: float) -> float:
    """Tokens for a loss, interpolated between the budgets of a size; infinite beyond the last of them."""
    tokens, losses = (
        [math.log(x) for x in column] for column in zip(*((t.tokens, t.loss) for t in curve), strict=True)
    )
    found = float(np.interp(-math.log(loss), [-x for x in losses], tokens, right=math.inf))
    return math.exp(found)


def share(ours: Training, curve: list[Training]) -> str:
    """The tokens of a training over those that the other recipe needs for its loss."""
    if ours.loss > curve[0].loss:
        return f"> {ours.tokens / curve[0].tokens:.2f}"
    tokens = needed(curve, ours.loss)
    return f"{ours.tokens / tokens:.2f}" if tokens < math.inf else f"< {ours.tokens / curve[-1].tokens:.2f}"


def rows(results: Results) -> Iterator[list[str]]:
    """A row for each size and number of updates."""
    adam, muon = (best(results, recipe) for recipe in RATE)
    for key, theirs in adam.items():
        if ours := muon.get(key):
            row = [f"{theirs.size}", f"{theirs.parameters / 1e6:.2f} M", f"{theirs.tokens / 1e6:.1f} M"]
            row += [f"{math.exp(one.loss):.1f}" for one in (theirs, ours)]
            row.append(share(ours, [one for one in adam.values() if one.size == ours.size]))
            yield [*row, f"{ours.minutes / theirs.minutes:.2f}", *(f"{one.rate:g}" for one in (theirs, ours))]


def table(results: Results) -> str:
    """Perplexities, what Muon's recipe saves, and the curves."""
    text = study.heading("Two recipes at several sizes and budgets", results, ABOUT)
    header = ["layers x channels", "parameters of the layers", "tokens", "Adam, perplexity", "Muon, perplexity"]
    header += ["share of Adam's tokens", "of its minutes, at equal tokens", "lr of Adam", "lr of Muon"]
    text += f"{markdown(header, rows(results))}\n## Curves\n\nln(loss) = a - b ln(parameters) - c ln(tokens).\n\n"
    fits = ((recipe, Fit.of([*best(results, recipe).values()])) for recipe in RATE)
    curves = [[recipe, *(f"{x:.4f}" for x in fit)] for recipe, fit in fits if fit]
    text += markdown(["", *Fit._fields], curves) if curves else "They need two --sizes and two numbers of --updates.\n"
    found = trainings(results)
    rates = Counter(one[:4] for one in found)
    several = [one for one in found if rates[one[:4]] > 1]
    tried = [
        [f"{t.recipe}, {t.size}, {t.tokens / 1e6:.1f} M", f"{t.rate:g}", f"{math.exp(t.loss):.1f}"] for t in several
    ]
    if tried:
        text += f"\n## Learning rates\n\n{markdown(['', 'lr', 'perplexity'], tried)}"
    return f"{text}\n![Perplexity over tokens and over computing](curves.png)\n"


def plot(results: Results, path: Path) -> None:
    """Perplexity over tokens and over processor minutes."""
    panels = []
    for label in ("million tokens", "minutes of one processor core"):
        lines: dict[str, list[tuple[float, float]]] = {}
        for recipe in RATE:
            for one in best(results, recipe).values():
                at = one.tokens / 1e6 if "tokens" in label else one.minutes
                lines.setdefault(f"{recipe}, {one.size}", []).append((at, math.exp(one.loss)))
        panels.append(Panel(label, lines, scale="log"))
    plot_lines(path, "validation perplexity", panels, lambda name: "o-" if MUON in name else "o--")


ABOUT = """One seed. Perplexity is of 15 % masks. Share of Adam's tokens: those of the row, over the tokens that Adam's
recipe needs for the perplexity of Muon's, interpolated between its budgets; < where its longest training does not reach
it. A schedule ends with each budget."""
FLAGS = [
    flag("data", Path, "folder made by `python -m data_prep binarize`"),
    flag("--sizes", ["2x64", "2x128", "4x256"], "layers x channels", quick=["1x32", "2x32"], cells=True),
    flag("--updates", [200, 400, 800], "of 4,096 tokens", quick=[2, 4], cells=True),
    flag("--rates", [1.0], "times the recipe's learning rate", cells=True, type=real(1e-6, 1e6)),
    flag("--parallel", 1, "trainings at a time, one thread each", cells=True),
]
MEASUREMENT = study.Measurement(__file__, __doc__, FLAGS, measure, table, {"curves.png": plot})

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
