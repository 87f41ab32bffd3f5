"""Speed of encoding documents of mixed length: one at a time, in batches as they come, and in length-bucketed batches.

    python recipes/measure/encode_speed.py --out RUN                about an hour on 2 cores
    python recipes/measure/encode_speed.py --quick --out RUN        a minute, with a small model

A Linformer beside the same model with exact attention, both with random weights, on which speed does not depend; in
float32, bfloat16 (autocast) and, on a CPU, 8-bit integers. Lengths are drawn log-uniformly. All ways take turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import product
from statistics import median

import numpy as np
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, complete_settings, symbols
from linformer_fairseq.inference.batches import as_they_come, like_length
from linformer_fairseq.inference.engine import OVERHEAD, Batching, Compute, Engine, Values
from linformer_fairseq.inference.sequences import BOS, EOS, Ids
from linformer_fairseq.measuring.study import Cells, Measurement, Results, heading, in_a_process, markdown, rounds_of
from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel

VOCABULARY = 1000  # the embedding takes no time
BUCKETS = "length-bucketed"
WAYS: dict[str, Batching] = {
    "one at a time": lambda lengths, *_: as_they_come(lengths, 1),
    "in order, padded": as_they_come,
    BUCKETS: like_length,
}
ATTENTIONS = ("linformer", "exact")
PRECISIONS = ("float32", "bfloat16", "int8")


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", default="linformer_roberta_base", help="default: %(default)s")
    parser.add_argument("--n", type=int, default=4096, help="tokens that the model reads (default: %(default)s)")
    parser.add_argument("--k", type=int, default=256, help="projected length (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: %(default)s")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="of a batch (default: that of linformer encode)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    precisions = PRECISIONS if options.device == "cpu" else PRECISIONS[:2]
    ways = {", ".join(way): in_a_process(encode, options, *way) for way in product(ATTENTIONS, precisions, WAYS)}
    cells.turns(ways, options.rounds)
    pairs = product(ATTENTIONS, precisions[1:])
    cells.run({f"agreement, {a}, {p}": in_a_process(agreement, options, a, p) for a, p in pairs})


def encode(options: argparse.Namespace, attention: str, precision: str, way: str) -> dict[str, float]:
    """Seconds to encode all documents, after a few for warming up; their tokens, without and with pads."""
    made, ids = engine(options, attention, precision), documents(options.documents, options.n)
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
    ids = documents(options.documents, options.n)
    return lowest_cosines(*(engine(options, attention, kind).run(ids) for kind in ("float32", precision)))


def lowest_cosines(wanted: Values, found: Values) -> dict[str, float]:
    """The lowest cosine of all documents, and that of their differences from the mean vector.

    Vectors of a model are nearly parallel, so the first is high in any case; the second sees what tells them apart.
    """
    one, two, centre = torch.from_numpy(wanted), torch.from_numpy(found), torch.from_numpy(wanted.mean(0))
    pairs = {"lowest cosine": (one, two), "centred": (one - centre, two - centre)}
    return {name: float(torch.cosine_similarity(*pair).min()) for name, pair in pairs.items()}


def documents(count: int, longest: int) -> list[Ids]:
    """Random documents; their lengths are log-uniform from 16 to `longest` tokens."""
    chance = np.random.default_rng(1)
    lengths = np.exp(chance.uniform(np.log(16), np.log(longest), count)).astype(int)
    return [np.array([BOS, *chance.integers(4, VOCABULARY - 1, length - 2), EOS]) for length in lengths]


def engine(options: argparse.Namespace, attention: str, precision: str) -> Engine:
    """The model with one kind of attention, its weights random but the same for all precisions."""
    torch.set_num_threads(options.threads)
    model = {"_name": options.arch, "max_positions": options.n, "projected_length": str(options.k)}
    settings = complete_settings(model | {"attention": attention})
    torch.manual_seed(1)
    state = LinformerRobertaModel(settings, LinformerRobertaEncoder(settings, symbols(VOCABULARY))).state_dict()
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    how = Compute(options.device, dtype, quantize=precision == "int8", batch_tokens=options.batch_tokens)
    return Engine(Checkpoint(state, model | {"attention": attention}), "mean", how)


def table(results: Results) -> str:
    cells, s = results["cells"], results["settings"]
    runs = {way: found for way in product(ATTENTIONS, PRECISIONS, WAYS) if (found := rounds_of(cells, ", ".join(way)))}
    seconds = {way: median(run["seconds"] for run in found) for way, found in runs.items()}
    tokens, rows = next(iter(runs.values()))[0]["tokens"], []
    for way, took in seconds.items():
        figures = [s["documents"] / took, tokens / took, seconds[*way[:2], "one at a time"] / took]
        pads = f"{runs[way][0]['computed'] / tokens - 1:.0%}"
        rows.append([*way, pads, *(f"{figure:,.2f}" for figure in figures)])
    ratios = ", ".join(
        f"{seconds['exact', precision, BUCKETS] / seconds['linformer', precision, BUCKETS]:.2f} in {precision}"
        for precision in PRECISIONS
        if ("exact", precision, BUCKETS) in seconds
    )
    agree = [
        [*name.split(", ")[1:], *(f"{cosine:.5f}" for cosine in cell.values())]
        for name, cell in cells.items()
        if name.startswith("agreement")
    ]
    about = f"{s['arch']} with n = {s['n']:,}, k = {s['k']} and random weights; {s['documents']} documents, {tokens:,} "
    about += (
        f"tokens, lengths log-uniform from 16 to n; {s['threads']} threads. Medians of rounds in which all take turns."
    )
    return (
        heading("Speed of encoding", results, about)
        + markdown(["attention", "precision", "batches", "pads", "documents/s", "tokens/s", "speedup"], rows, left=3)
        + f"\nIn length-bucketed batches a Linformer is so many times as fast as exact attention: {ratios}.\n\n"
        "Agreement with the vectors in float32, the lowest cosine of all documents; centred: less their mean vector.\n\n"
        + markdown(["attention", "precision", "cosine", "centred"], agree, left=2)
    )


QUICK = {"arch": "linformer_roberta_tiny", "n": 512, "k": 128, "documents": 24, "rounds": 1}
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, table, quick=QUICK)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
