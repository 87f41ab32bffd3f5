"""Classification of one text on a CPU: latency and memory by length, kind of attention and runtime.

    OMP_NUM_THREADS=1 python recipes/measure/long_classifiers.py --out RUN

Random weights, on which speed does not depend. All take turns, each in a process of its own. The time is that of one
classification, of up to 8,192 tokens the second one; the memory is the peak beside what the process holds after a first
short text. ONNX Runtime holds the n x n scores of exact attention, and is left out where a layer's take over 2 GB.
"""

import argparse
import sys
import time
from itertools import product

import torch

from linformer_fairseq.measuring.contestants import (
    CLASSIFIER,
    ONNX,
    PYTORCH,
    VOCABULARY,
    Make,
    Sizes,
    efficient,
    runner,
    too_large,
    usual,
)
from linformer_fairseq.measuring.study import Cells, Measurement, comparison, forget_peak, in_a_process, status

LONGFORMER = "Longformer, window 512"
RUNTIMES = list(product((PYTORCH, ONNX), ("float32", "int8")))


def flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--lengths", type=int, nargs="+", default=[512, 2048, 8192, 32768], help="in tokens (default: 512 to 32768)")
    add("--layers", type=int, default=6, help="default: %(default)s")
    add("--channels", type=int, default=384, help="in heads of 64 (default: %(default)s)")
    add("--k", type=int, default=256, help="projected length (default: %(default)s)")
    add("--local-window", type=int, nargs="+", default=[0, 64], metavar="W", help="default: 0 64")
    add("--rounds", type=int, default=3, help="default: %(default)s")
    add("--threads", type=int, default=1, help="default: %(default)s")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    work = {}
    for (runtime, precision), name in product(RUNTIMES, models(options)):
        if name != LONGFORMER or runtime != ONNX:  # whose export is left out
            work[f"{name}, {runtime}, {precision}"] = in_a_process(classify, options, name, runtime, precision)
    cells.turns(work, options.rounds)


def models(options: argparse.Namespace) -> dict[str, Make]:
    """What makes each contestant."""
    sizes = sizes_of(options)
    return usual(sizes, options.local_window) | {LONGFORMER: efficient(sizes, 256)["Longformer"]}


def sizes_of(options: argparse.Namespace) -> Sizes:
    """Those of all contestants."""
    heads = options.channels // 64
    return Sizes(max(options.lengths), options.layers, options.channels, heads, options.k, kind=CLASSIFIER)


def classify(options: argparse.Namespace, name: str, runtime: str, precision: str) -> dict[str, float]:
    """Milliseconds and MB of one classification of each length."""
    graph = options.out / f"{name}.onnx"
    run = runner(models(options)[name], runtime, precision == "int8", options.threads, graph)
    found, chance = dict[str, float](), torch.Generator().manual_seed(1)
    run(torch.full((1, 64), 5))
    before = status("VmRSS")
    for n in sorted(options.lengths):
        if too_large(name, runtime, sizes_of(options), n):
            break
        ids = torch.randint(4, VOCABULARY, (1, n), generator=chance)
        forget_peak()
        for _ in range(2 if n <= 8192 else 1):
            start = time.perf_counter()
            run(ids)
            found[f"ms, {n:,} tokens"] = 1000 * (time.perf_counter() - start)
        found[f"MB, {n:,}"] = (status("VmHWM") - before) / 1e6
    return found


TABLE = comparison("Classifiers of long texts on a CPU", "Random weights; milliseconds and memory of one text.")
QUICK = {"lengths": [64, 128], "layers": 1, "channels": 64, "k": 16, "local_window": [0, 4], "rounds": 1}
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, TABLE, quick=QUICK)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
