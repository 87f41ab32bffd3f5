"""Speed of encoding documents of mixed length: one at a time, in batches as they come, and in length-bucketed batches.

    python recipes/measure/encode_speed.py --out RUN                about an hour on 2 cores
    python recipes/measure/encode_speed.py --quick --out RUN        a minute, with a small model

A Linformer of base size beside the same model with exact attention, both with random weights, on which speed does not
depend; in float32, bfloat16 (autocast) and, on a CPU, 8-bit integers. Lengths are drawn log-uniformly. All ways take
turns on the same documents.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, complete_settings, symbols
from linformer_fairseq.inference.batches import as_they_come, like_length
from linformer_fairseq.inference.engine import OVERHEAD, Batching, Compute, Engine, Values
from linformer_fairseq.inference.sequences import BOS, EOS, Ids
from linformer_fairseq.measuring.study import (
    Cells,
    Measurement,
    Results,
    heading,
    in_a_process,
    markdown,
    rounds_of,
)
from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel

VOCABULARY = 1000  # the embedding takes no time
WAYS: dict[str, Batching] = {
    "one at a time": lambda lengths, *_: as_they_come(lengths, 1),
    "in order, padded": as_they_come,
    "length-bucketed": like_length,
}
ATTENTIONS = ("linformer", "exact")
PRECISIONS = {"float32": Compute(), "bfloat16": Compute(dtype="bfloat16"), "int8": Compute(quantize=True)}


def flags(parser: argparse.ArgumentParser) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--arch", default="linformer_roberta_base", help="default: %(default)s")
    parser.add_argument("--max-positions", type=int, default=4096, help="default: %(default)s")
    parser.add_argument("--projected-length", default="256", help="default: %(default)s")
    parser.add_argument("--documents", type=int, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--device", default=device, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=cores, metavar="N", help="on a CPU (default: %(default)s)")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="of a batch (default: that of linformer encode)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    precisions = [name for name, how in PRECISIONS.items() if options.device == "cpu" or not how.quantize]
    kinds = list(product(ATTENTIONS, precisions))
    cells.run({f"agreement, {a}, {p}": in_a_process(agreement, options, a, p) for a, p in kinds if p != "float32"})
    ways = {", ".join(way): in_a_process(encode, options, *way) for way in product(ATTENTIONS, precisions, WAYS)}
    cells.turns(ways, options.rounds)


def encode(options: argparse.Namespace, attention: str, precision: str, way: str) -> dict[str, float]:
    """Seconds to encode all documents, after a few for warming up; their tokens, without and with pads."""
    made, ids = engine(options, attention, precision), documents(options.documents, options.max_positions)
    made.run(ids[:4], batching=WAYS[way])
    start = time.perf_counter()
    made.run(ids, batching=WAYS[way])
    seconds = time.perf_counter() - start
    lengths = [len(part) for part in ids]
    batches = WAYS[way](lengths, made.batch_tokens, OVERHEAD.get(made.device.type, 64))
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return {"seconds": seconds, "tokens": sum(lengths), "computed": int(padded)}


def agreement(options: argparse.Namespace, attention: str, precision: str) -> dict[str, float]:
    """How near the vectors of a precision come to those in float32."""
    ids = documents(options.documents, options.max_positions)
    return lowest_cosines(*(engine(options, attention, kind).run(ids) for kind in ("float32", precision)))


def lowest_cosines(wanted: Values, found: Values) -> dict[str, float]:
    """Cosines of the vectors of each document: the lowest, and that of their differences from the mean vector.

    Vectors of a model are more or less parallel, so the first is high in any case; the second compares what tells the
    documents apart.
    """

    def lowest(one: Values, two: Values) -> float:
        return float(torch.cosine_similarity(torch.from_numpy(one), torch.from_numpy(two)).min())

    centre = wanted.mean(0)
    return {"lowest cosine": lowest(wanted, found), "centred": lowest(wanted - centre, found - centre)}


def documents(count: int, longest: int) -> list[Ids]:
    """Random documents; their lengths are log-uniform from 16 to `longest` tokens."""
    chance = np.random.default_rng(1)
    lengths = np.exp(chance.uniform(np.log(16), np.log(longest), count)).astype(int)
    return [np.array([BOS, *chance.integers(4, VOCABULARY - 1, length - 2), EOS]) for length in lengths]


def engine(options: argparse.Namespace, attention: str, precision: str) -> Engine:
    """The model with one kind of attention, its weights random but the same for all precisions."""
    torch.set_num_threads(options.threads)
    model: dict[str, Any] = {"_name": options.arch, "max_positions": options.max_positions, "attention": attention}
    model["projected_length"] = options.projected_length
    settings = complete_settings(model)
    torch.manual_seed(1)
    built = LinformerRobertaModel(settings, LinformerRobertaEncoder(settings, symbols(VOCABULARY)))
    kind = PRECISIONS[precision]
    how = Compute(options.device, kind.dtype, kind.quantize, batch_tokens=options.batch_tokens)
    return Engine(Checkpoint(built.state_dict(), model), "mean", how)


def table(results: Results) -> str:
    cells, settings = results["cells"], results["settings"]
    runs = {way: found for way in product(ATTENTIONS, PRECISIONS, WAYS) if (found := rounds_of(cells, ", ".join(way)))}
    seconds = {way: median(run["seconds"] for run in found) for way, found in runs.items()}
    tokens, rows = next(iter(runs.values()))[0]["tokens"], []
    for (attention, precision, way), found in runs.items():
        took = seconds[attention, precision, way]
        times = seconds[attention, precision, "one at a time"] / took
        pads = f"{found[0]['computed'] / tokens - 1:.0%}"
        speed = (f"{settings['documents'] / took:.2f}", f"{tokens / took:,.0f}", f"{times:.2f}")
        rows.append([attention, precision, way, pads, *speed])
    ratios = ", ".join(
        f"{seconds['exact', precision, way] / took:.2f} in {precision}"
        for (attention, precision, way), took in seconds.items()
        if attention == "linformer" and way == "length-bucketed"
    )
    agree = [
        [*name.split(", ")[1:], f"{cell['lowest cosine']:.5f}", f"{cell['centred']:.5f}"]
        for name, cell in cells.items()
        if name.startswith("agreement")
    ]
    about = (
        f"{settings['arch']} with n = {settings['max_positions']:,}, k = {settings['projected_length']} and random "
        f"weights; {settings['documents']} documents, {tokens:,} tokens, lengths log-uniform from 16 to n; "
        f"{settings['threads']} threads. Medians of rounds in which all take turns; the last column: how many times as "
        "fast as one at a time with the same attention and precision."
    )
    return (
        heading("Speed of encoding", results, about)
        + markdown(["attention", "precision", "batches", "pads", "documents/s", "tokens/s", ""], rows, left=3)
        + f"\nIn length-bucketed batches a Linformer is so many times as fast as exact attention: {ratios}.\n\n"
        "Agreement with the vectors in float32, the lowest cosine of all documents; centred: less their mean vector. "
        "Weights are random; a trained model may differ.\n\n"
        + markdown(["attention", "precision", "cosine", "centred"], agree, left=2)
    )


MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, measure, table),
    quick={
        **{"arch": "linformer_roberta_tiny", "max_positions": 512, "projected_length": "128"},
        **{"documents": 24, "rounds": 1},
    },
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
