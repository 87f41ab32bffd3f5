"""Classification of one text on a CPU: latency and memory by length, kind of attention and runtime.

    OMP_NUM_THREADS=1 python recipes/measure/long_classifiers.py --out RUN

Random weights, on which speed does not depend. All take turns, each in a process of its own. The time is that of one
classification, of up to 8,192 tokens the second one; the memory is the peak beside what the process holds after a first
short text. ONNX Runtime holds the n x n scores of exact attention, and is left out where a layer's take over 2 GB.
"""

from functools import partial
from itertools import product

import torch

from linformer_fairseq.measuring import contestants as by
from linformer_fairseq.measuring import study
from linformer_fairseq.measuring.study import Cells, Options, flag

LONGFORMER = "Longformer, window 512"
RUNTIMES = list(product((by.PYTORCH, by.ONNX), ("float32", "int8")))


def measure(options: Options, cells: Cells) -> None:
    work = {}
    for (runtime, precision), name in product(RUNTIMES, models(options)[1]):
        if name != LONGFORMER or runtime != by.ONNX:  # whose export is left out
            work[f"{name}, {runtime}, {precision}"] = study.in_a_process(classify, options, name, runtime, precision)
    cells.turns(work, options.rounds)


def models(options: Options) -> tuple[by.Sizes, dict[str, by.Make]]:
    """What makes each contestant."""
    sizes = by.Sizes.of(options, max(options.lengths), by.CLASSIFIER)
    return sizes, by.usual(sizes, options.local_window) | {LONGFORMER: by.efficient(sizes, 256)["Longformer"]}


def classify(options: Options, name: str, runtime: str, precision: str) -> dict[str, float]:
    """Milliseconds and MB of one classification of each length."""
    (sizes, makes), graph = models(options), options.out / f"{name}.onnx"
    run = by.runner(makes[name], runtime, precision == "int8", options.threads, graph)
    found, chance = dict[str, float](), torch.Generator().manual_seed(1)
    run(torch.full((1, 64), 5))
    before = study.status("VmRSS")
    for n in sorted(options.lengths):
        if by.too_large(name, runtime, sizes, n):
            break
        ids = torch.randint(4, by.VOCABULARY, (1, n), generator=chance)
        study.forget_peak()
        times = [study.seconds(partial(run, ids)) for _ in range(2 if n <= 8192 else 1)]
        found |= {f"ms, {n:,} tokens": 1000 * times[-1], f"MB, {n:,}": (study.status("VmHWM") - before) / 1e6}
    return found


FLAGS = [
    flag("--lengths", [512, 2048, 8192, 32768], "in tokens", [64, 128]),
    *by.FLAGS,
    flag("--rounds", 3, quick=1),
    flag("--threads", 1),
]
TABLE = study.comparison("Classifiers of long texts on a CPU", "Random weights; milliseconds and memory of one text.")
MEASUREMENT = study.Measurement(__file__, __doc__, FLAGS, measure, TABLE)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
