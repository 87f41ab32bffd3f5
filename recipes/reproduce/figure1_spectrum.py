"""Figure 1 of the paper for any encoder: singular values of attention, and what k slots reach of what rank k allows.

    python recipes/reproduce/figure1_spectrum.py all-MiniLM-L6-v2 books --out RUN --report docs/benchmarks/spectrum

MODEL is a BERT or RoBERTa of Hugging Face, a RoBERTa of fairseq, or a checkpoint of this project's. P is the N x N
matrix of attention weights of a head. Nothing is trained, and each layer gets the input that it has in the exact model.
"""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any

from linformer_fairseq.checkpoints.checkpoint import encoder_config
from linformer_fairseq.inference import approximation as by
from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Measurement, Options, Results, flag, heading, markdown
from linformer_fairseq.ranges import whole

CONTEXT = "rank k, P·V"
Pick = Callable[..., float]


def measure(options: Options, cells: Cells) -> None:
    cells.run({"attention": partial(attention, options)})


def attention(options: Options) -> dict[str, Any]:
    """Shares by layer, head and rank, as `spectrum_of`, and rows of kind, k and the error of each layer."""
    given, exact, tokenizer = by.read_model(options.model, options.data, options.max_positions)
    n, own = encoder_config(exact).max_positions, encoder_config(given)
    passages = by.read_passages([options.text], tokenizer, n, options.passages)
    ranks = [2**i for i in range(3, n.bit_length()) if 2**i < n]
    kinds = {"blocks": ("mean-pool", 0), "adaptive": ("adaptive", 0)}
    kinds |= {f"adaptive, window {w}": ("adaptive", w) for w in options.windows}
    variants = {(kind, k): by.Variant(name, k, w) for k in ranks for kind, (name, w) in kinds.items()}
    variants = {name: variant for name, variant in variants.items() if name[0] != "blocks" or n % variant.k == 0}
    variants |= {(f"window {w} alone", 0): by.Variant("", 0, w) for w in options.windows}
    names = [*((kind, k) for kind in (CONTEXT, "rank k") for k in ranks), *variants]
    trained = None
    if own.attention == "linformer" and n <= own.max_positions:
        trained, names = given, [*names, ("the checkpoint's own", max(own.lengths))]
    shares, limits = by.spectrum_of(exact, passages, ranks)
    errors = [*limits.flatten(0, 1), *by.errors_of(exact, passages, list(variants.values()), trained)]
    rows = [(*name, row.round(decimals=4).tolist()) for name, row in zip(names, errors, strict=True)]
    return {"passages": passages.shape, "ranks": ranks, "shares": shares.round(decimals=4).tolist(), "rows": rows}


def table(results: Results) -> str:
    """Shares of the first singular values, and errors by k."""
    cell = results["cells"]["attention"]
    about = "{} passages of {} tokens. ".format(*cell["passages"])
    about += f"Share of the first {cell['ranks'][-2]} singular values of P in the sum of all:"
    text = heading("Attention: its rank, and what k slots reach", results, about)
    shares = [[i + 1, *(f"{head[-2]:.2f}" for head in layer)] for i, layer in enumerate(cell["shares"])]
    text += markdown(["layer", *(f"head {i + 1}" for i in range(len(shares[0]) - 1))], shares)
    text += "\n![Cumulative singular values](spectrum.png)\n\n"
    text += f"Relative error of the sublayer's output; of “{CONTEXT}”, that of P·V before the output projection:\n\n"
    rows = sorted(cell["rows"], key=itemgetter(1))
    shown = [[kind, k or "", *(f"{error:.3f}" for error in (*found, mean(found)))] for kind, k, found in rows]
    text += markdown(["", "k", *(f"layer {i + 1}" for i in range(len(shares))), "mean"], shown)
    return text + "\n![Error over k](errors.png)\n"


def plot_spectrum(results: Results, path: Path) -> None:
    cell, panels = results["cells"]["attention"], []
    picks: dict[str, Pick] = {"mean of the heads": mean, "longest tail": min, "shortest tail": max}
    for title, pick in picks.items():
        curves = [map(pick, zip(*layer, strict=True)) for layer in cell["shares"]]
        lines = {f"layer {i + 1}": [*zip(cell["ranks"], curve, strict=True)] for i, curve in enumerate(curves)}
        panels.append(Panel("rank", lines, title, "log"))
    plot_lines(path, "share of the sum of singular values", panels, lambda _: "-", "linear")


def plot_errors(results: Results, path: Path) -> None:
    """Mean of the layers; the first and the last one. The window alone is a level line."""
    cell, panels = results["cells"]["attention"], []
    picks: dict[str, Pick] = {"mean of the layers": mean, "first layer": itemgetter(0), "last layer": itemgetter(-1)}
    for title, pick in picks.items():
        lines: dict[str, list[tuple[float, float]]] = {}
        for kind, k, found in cell["rows"]:
            lines.setdefault(kind, []).extend((x, pick(found)) for x in ([k] if k else cell["ranks"]))
        panels.append(Panel("k", lines, title, "log"))
    plot_lines(path, "relative error", panels, lambda kind: ":" if "alone" in kind else "o-", "linear")


PICTURES = {"spectrum.png": plot_spectrum, "errors.png": plot_errors}
FLAGS = [
    flag("model", Path, "checkpoint or folder"),
    flag("text", Path, "text file, or folder of .txt files"),
    flag("--data", about="folder of the tokenizer (default: that of the model)", type=Path),
    flag("--max-positions", about="of a passage (default: the longest input)", type=whole()),
    flag("--passages", 16, quick=1),
    flag("--windows", [16, 64], least=0),
]
MEASUREMENT = Measurement(__file__, __doc__, FLAGS, measure, table, PICTURES)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
