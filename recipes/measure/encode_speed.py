"""Speed of encoding documents, of mixed length and of fixed lengths, by model, runtime, precision and threads.

    python recipes/measure/encode_speed.py --out RUN                about an hour on 2 cores
    python recipes/measure/encode_speed.py --quick --out RUN        a minute, with a small model

Ours, the same with exact attention and Hugging Face's RoBERTa, in PyTorch and ONNX Runtime, all with random weights, on
which speed does not depend, and all in the batches of `linformer encode`. bfloat16 is autocast, and not for ONNX
Runtime. Lengths are fixed, or log-uniform from 64 to --n tokens. All take turns, each in a process of its own.
"""

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Callable
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linformer_fairseq.inference.engine import BATCH_TOKENS, Batching, Compute, Engine, check_compute
from linformer_fairseq.inference.sequences import BOS, EOS, Ids, as_they_come, like_length
from linformer_fairseq.measuring import contestants as by
from linformer_fairseq.measuring.study import (
    Cells,
    Measurement,
    Results,
    comparison,
    in_a_process,
    markdown,
    rounds_of,
)

BATCHINGS: dict[str, Batching] = {
    "length-bucketed": like_length,
    "in order": as_they_come,
    "one at a time": lambda lengths, *_: as_they_come(lengths, 1),
}
PRECISIONS = ("float32", "bfloat16", "int8")
MIXED, SHORTEST = "mixed", 64  # tokens


def flags(parser: argparse.ArgumentParser) -> None:
    add, device = parser.add_argument, "cuda" if torch.cuda.is_available() else "cpu"
    threads = list(range(1, 1 + len(os.sched_getaffinity(0))))[:2]
    add("--n", type=int, default=16384, help="tokens that the models read, and longest of mixed (default: %(default)s)")
    add(
        "--lengths",
        type=int,
        nargs="+",
        default=[128, 4096, 16384],
        metavar="N",
        help="fixed (default: 128 4096 16384)",
    )
    add("--tokens", type=int, default=32768, help="of the documents of a kind (default: %(default)s)")
    add("--layers", type=int, default=6, help="default: %(default)s")
    add("--channels", type=int, default=384, help="in heads of 64 (default: %(default)s)")
    add("--k", type=int, default=256, help="projected length (default: %(default)s)")
    add("--local-window", type=int, nargs="+", default=[0, 64], metavar="W", help="default: 0 64")
    add("--batching", choices=list(BATCHINGS), default="length-bucketed", help="default: %(default)s")
    add("--batch-tokens", type=int, metavar="N", help="of a batch (default: that of linformer encode)")
    add("--device", default=device, help="default: %(default)s")
    add("--rounds", type=int, default=1, help="default: %(default)s")
    add("--threads", type=int, nargs="+", default=threads, help=f"default: {' '.join(map(str, threads))}")
    add("--runtimes", nargs="+", choices=[by.PYTORCH, by.ONNX], default=[by.PYTORCH, by.ONNX], help="default: both")
    add("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="default: all")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    ways = {}
    for threads, precision, runtime in product(options.threads, options.precisions, options.runtimes):
        on_cpu, onnx = options.device == "cpu", runtime == by.ONNX
        if (on_cpu or not onnx and precision != "int8") and not (onnx and precision == "bfloat16"):
            for name in models(options):
                how = name, runtime, precision, threads
                ways["{}, {}, {}, threads {}".format(*how)] = in_a_process(encode, options, *how)
    cells.turns(ways, options.rounds)


def models(options: argparse.Namespace) -> dict[str, by.Make]:
    """What makes each contestant."""
    return by.usual(sizes_of(options), options.local_window)


def sizes_of(options: argparse.Namespace) -> by.Sizes:
    """Those of all contestants."""
    longest = max(options.n, *options.lengths)
    return by.Sizes(longest, options.layers, options.channels, options.channels // 64, options.k)


class Encoding(Engine):
    """Features of ids (B, N) by any encoder, (B, N, C), in the batches of `linformer encode` and pooled as there."""

    def __init__(self, features: Callable[[Tensor], Any], channels: int, compute: Compute) -> None:
        self._compute, self.device = compute, check_compute(compute)
        self.batch_tokens = compute.batch_tokens or BATCH_TOKENS[self.device.type]
        self._encoder = lambda ids: (torch.as_tensor(features(ids)),)
        self._head, self._pooling, self._width = None, "mean", channels


def encode(options: argparse.Namespace, name: str, runtime: str, precision: str, threads: int) -> dict[str, float]:
    """Tokens per second of each kind of documents; the lowest cosine to the vectors in float32, less their mean.

    Vectors of a model are nearly parallel: it is their differences from the mean that tell the documents apart.
    """
    made, found = engine(options, name, runtime, precision, threads), dict[str, float]()
    batching = BATCHINGS[options.batching]
    made.run(documents([SHORTEST] * 4), batching=batching)
    for kind in (MIXED, *sorted(options.lengths)):
        lengths = mixed(options.tokens, options.n) if kind == MIXED else [int(kind)] * -(-options.tokens // int(kind))
        if by.too_large(name, runtime, sizes_of(options), max(lengths)):
            continue
        start = time.perf_counter()
        made.run(documents(lengths), batching=batching)
        found[f"tokens/s, {kind}"] = sum(lengths) / (time.perf_counter() - start)
    some = documents(mixed(SHORTEST * 32, min(SHORTEST * 8, options.n)))
    exact = torch.from_numpy(engine(options, name, by.PYTORCH, PRECISIONS[0], threads).run(some))
    vectors, centre = torch.from_numpy(made.run(some)), exact.mean(0)
    return found | {"cosine": float(torch.cosine_similarity(vectors - centre, exact - centre).min())}


def engine(options: argparse.Namespace, name: str, runtime: str, precision: str, threads: int) -> Encoding:
    """A contestant in a runtime, its weights random but the same for all."""
    make, graph = models(options)[name], options.out / f"{name}.onnx"
    features = by.runner(lambda: make().to(options.device), runtime, precision == "int8", threads, graph)
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    return Encoding(features, options.channels, Compute(options.device, dtype, batch_tokens=options.batch_tokens))


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
    medians: dict[tuple[str, bool, str], list[float]] = {}  # of contestants, by precision and threads, ours, column
    for name in results["cells"]:
        if found := re.fullmatch(rf"(.+), (?:{by.PYTORCH}|{by.ONNX}), (.+), round 0", name):
            rounds = rounds_of(results["cells"], name.removesuffix(", round 0"))
            for column in rounds[0]:
                key = found[2], found[1] not in (by.EXACT, by.ROBERTA), column
                medians.setdefault(key, []).append(median(one[column] for one in rounds))
    columns = [column for column in dict.fromkeys(column for *_, column in medians) if column != "cosine"]
    rows = []
    for how in dict.fromkeys(how for how, *_ in medians):
        best = [[max(medians.get((how, ours, c), [0])) for c in columns] for ours in (True, False)]
        rows.append([how, *(f"{ours / theirs:.2f}" if theirs else None for ours, theirs in zip(*best, strict=True))])
    head = ["fastest of ours / fastest with exact attention", *(column.partition(", ")[2] for column in columns)]
    return comparison("Speed of encoding", ABOUT)(results) + "\n" + markdown(head, rows)


QUICK = {"n": 256, "lengths": [64, 128], "tokens": 512, "layers": 1, "channels": 64, "k": 16, "local_window": [4]}
CHOICES = ("threads", "runtimes", "precisions")
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, table, quick=QUICK, choices=CHOICES)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
