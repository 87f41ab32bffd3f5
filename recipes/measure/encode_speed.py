"""Speed of encoding documents, of mixed length and of fixed lengths, by model, runtime, precision and threads.

    python recipes/measure/encode_speed.py --out RUN                about an hour on 2 cores
    python recipes/measure/encode_speed.py --quick --out RUN        a minute, with a small model

Ours, the same with exact attention and Hugging Face's RoBERTa, in PyTorch and ONNX Runtime, all with random weights, on
which speed does not depend, and all in the batches of `linformer encode`. bfloat16 is autocast, and not for ONNX
Runtime. Lengths are fixed, or log-uniform from 64 to --n tokens. All take turns, each in a process of its own.
"""

import math
import os
import re
from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linformer_fairseq.inference.engine import BATCH_TOKENS, Compute, Engine, check_compute
from linformer_fairseq.inference.sequences import BOS, EOS, Ids
from linformer_fairseq.measuring import contestants as by
from linformer_fairseq.measuring import study
from linformer_fairseq.measuring.study import Cells, Options, Results, flag

PRECISIONS = ("float32", "bfloat16", "int8")
MIXED, SHORTEST = "mixed", 64  # tokens


def measure(options: Options, cells: Cells) -> None:
    ways = {}
    for threads, precision, runtime in product(options.threads, options.precisions, options.runtimes):
        on_cpu, onnx = options.device == "cpu", runtime == by.ONNX
        if (on_cpu or not onnx and precision != "int8") and not (onnx and precision == "bfloat16"):
            for name in by.usual(by.Sizes.of(options, max(options.n, *options.lengths)), options.local_window):
                how = name, runtime, precision, threads
                ways["{}, {}, {}, threads {}".format(*how)] = study.in_a_process(encode, options, *how)
    cells.turns(ways, options.rounds)


class Encoding(Engine):
    """Features of ids (B, N) by any encoder, (B, N, C), in the batches of `linformer encode` and pooled as there."""

    def __init__(self, features: Callable[[Tensor], Any], channels: int, compute: Compute) -> None:
        self._compute, self.device = compute, check_compute(compute)
        self.batch_tokens = BATCH_TOKENS[self.device.type]
        self._encoder = lambda ids: (torch.as_tensor(features(ids)),)
        self._head, self._pooling, self._width = None, "mean", channels


def encode(options: Options, name: str, runtime: str, precision: str, threads: int) -> dict[str, float]:
    """Tokens per second of each kind of documents; the lowest cosine to the vectors in float32, less their mean.

    Vectors of a model are nearly parallel: it is their differences from the mean that tell the documents apart.
    """
    sizes = by.Sizes.of(options, max(options.n, *options.lengths))
    make, graph = by.usual(sizes, options.local_window)[name], options.out / f"{name}.onnx"

    def engine(runtime: str, precision: str) -> Encoding:
        features = by.runner(lambda: make().to(options.device), runtime, precision == "int8", threads, graph)
        dtype = "bfloat16" if precision == "bfloat16" else "float32"
        return Encoding(features, options.channels, Compute(options.device, dtype))

    made, found = engine(runtime, precision), dict[str, float]()
    made.run(documents([SHORTEST] * 4))
    for kind in (MIXED, *sorted(options.lengths)):
        lengths = mixed(options.tokens, options.n) if kind == MIXED else [int(kind)] * -(-options.tokens // int(kind))
        if not by.too_large(name, runtime, sizes, max(lengths)):
            found[f"tokens/s, {kind}"] = sum(lengths) / study.seconds(partial(made.run, documents(lengths)))
    some = documents(mixed(SHORTEST * 32, min(SHORTEST * 8, options.n)))
    exact = torch.from_numpy(engine(by.PYTORCH, PRECISIONS[0]).run(some))
    vectors, centre = torch.from_numpy(made.run(some)), exact.mean(0)
    return found | {"cosine": float(torch.cosine_similarity(vectors - centre, exact - centre).min())}


def mixed(tokens: int, longest: int) -> list[int]:
    """Lengths of about so many tokens in all: quantiles of the log-uniform from `SHORTEST` to `longest`, mixed up."""
    span = math.log(longest / SHORTEST)
    count = max(1, round(tokens * span / (longest - SHORTEST)))
    lengths = SHORTEST * np.exp(span * (np.random.default_rng(1).permutation(count) + 0.5) / count)
    return [int(n) for n in lengths]


def documents(lengths: list[int]) -> list[Ids]:
    """Random documents of these lengths."""
    chance = np.random.default_rng(2)
    return [np.array([BOS, *chance.integers(4, by.VOCABULARY - 1, n - 2), EOS]) for n in lengths]


ABOUT = """Random weights; mixed: log-uniform from 64 to n tokens. Cosine: with the vectors in float32, less their mean,
the lowest of some documents. Empty: the scores of exact attention would take too much memory."""


def table(results: Results) -> str:
    """All figures, and how many times as fast the fastest of ours is as the fastest with exact attention."""
    best: dict[tuple[str, str], dict[bool, float]] = {}  # by precision and threads, column: the fastest of ours, or not
    for name in results["cells"]:
        if found := re.fullmatch(rf"(.+), (?:{by.PYTORCH}|{by.ONNX}), (.+), round 0", name):
            ours, rounds = found[1] not in (by.EXACT, by.ROBERTA), study.rounds_of(results["cells"], name[:-9])
            for column in rounds[0].keys() - {"cosine"}:
                fastest = best.setdefault((found[2], column), {True: 0, False: 0})
                fastest[ours] = max(fastest[ours], median(one[column] for one in rounds))
    columns = list(dict.fromkeys(c for cell in results["cells"].values() for c in cell if c != "cosine"))
    rows = []
    for how in dict.fromkeys(how for how, _ in best):
        speeds = (best.get((how, column), {True: 0, False: 0}) for column in columns)
        rows.append([how, *(f"{one[True] / one[False]:.2f}" if one[False] else None for one in speeds)])
    head = ["fastest of ours / fastest with exact attention", *(column.partition(", ")[2] for column in columns)]
    return study.comparison("Speed of encoding", ABOUT)(results) + "\n" + study.markdown(head, rows)


THREADS = list(range(1, 1 + len(os.sched_getaffinity(0))))[:2]
FLAGS = [
    flag("--n", 16384, "tokens that the models read, and longest of mixed", quick=256),
    flag("--lengths", [128, 4096, 16384], "fixed", quick=[64, 128]),
    flag("--tokens", 32768, "of the documents of a kind", quick=512),
    *by.FLAGS,
    flag("--device", "cuda" if torch.cuda.is_available() else "cpu"),
    flag("--rounds", 1),
    flag("--threads", THREADS, cells=True),
    flag("--runtimes", [by.PYTORCH, by.ONNX], choices=[by.PYTORCH, by.ONNX], cells=True),
    flag("--precisions", list(PRECISIONS), choices=PRECISIONS, cells=True),
]
MEASUREMENT = study.Measurement(__file__, __doc__, FLAGS, measure, table)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
