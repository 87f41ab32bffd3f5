"""Speed of encoding documents of mixed length: one at a time, in batches as they come, and in length-bucketed batches.

    python recipes/measure/encode_speed.py --out RUN                about an hour on 2 cores
    python recipes/measure/encode_speed.py --quick --out RUN        a minute, with a small model

A Linformer beside the same model with exact attention, both with random weights, on which speed does not depend; in
float32, bfloat16 (autocast) and, on a CPU, 8-bit integers. Lengths are drawn log-uniformly. All ways take turns.
"""

import argparse
import os
import sys
import time
from itertools import product

import numpy as np
import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, untrained
from linformer_fairseq.inference.engine import Batching, Compute, Engine
from linformer_fairseq.inference.sequences import BOS, EOS, Ids, as_they_come, like_length
from linformer_fairseq.measuring.study import Cells, Measurement, comparison, in_a_process

VOCABULARY = 1000  # the embedding takes no time
BUCKETS = "length-bucketed"
WAYS: dict[str, Batching] = {
    "one at a time": lambda lengths, *_: as_they_come(lengths, 1),
    "in order, padded": as_they_come,
    BUCKETS: like_length,
}
ATTENTIONS = ("exact", "linformer")
PRECISIONS = ("float32", "bfloat16", "int8")


def flags(parser: argparse.ArgumentParser) -> None:
    device, threads = "cuda" if torch.cuda.is_available() else "cpu", len(os.sched_getaffinity(0))
    parser.add_argument("--arch", default="linformer_roberta_base", help="default: %(default)s")
    parser.add_argument("--n", type=int, default=4096, help="tokens that the model reads (default: %(default)s)")
    parser.add_argument("--k", type=int, default=256, help="projected length (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--device", default=device, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=threads, help="on a CPU (default: %(default)s)")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="of a batch (default: that of linformer encode)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    precisions = PRECISIONS if options.device == "cpu" else PRECISIONS[:2]
    ways = {", ".join(way): in_a_process(encode, options, *way) for way in product(ATTENTIONS, precisions, WAYS)}
    cells.turns(ways, options.rounds)


def encode(options: argparse.Namespace, attention: str, precision: str, way: str) -> dict[str, float]:
    """Speed of encoding all documents, after a few for warming up; cosine to the vectors in float32.

    Vectors of a model are nearly parallel: it is their differences from the mean that tell the documents apart.
    """
    made, ids = engine(options, attention, precision), documents(options.documents, options.n)
    made.run(ids[:4], batching=WAYS[way])
    start = time.perf_counter()
    vectors = torch.from_numpy(made.run(ids, batching=WAYS[way]))
    seconds = time.perf_counter() - start
    found = {"documents/s": len(ids) / seconds, "tokens/s": sum(map(len, ids)) / seconds}
    if way == BUCKETS:
        exact = torch.from_numpy(engine(options, attention, PRECISIONS[0]).run(ids))
        centre = exact.mean(0)
        found["cosine"] = float(torch.cosine_similarity(vectors - centre, exact - centre).min())
    return found


def documents(count: int, longest: int) -> list[Ids]:
    """Random documents; their lengths are log-uniform from 16 to `longest` tokens."""
    chance = np.random.default_rng(1)
    lengths = np.exp(chance.uniform(np.log(16), np.log(longest), count)).astype(int)
    return [np.array([BOS, *chance.integers(4, VOCABULARY - 1, length - 2), EOS]) for length in lengths]


def engine(options: argparse.Namespace, attention: str, precision: str) -> Engine:
    """The model with one kind of attention, its weights random but the same for all precisions."""
    torch.set_num_threads(options.threads)
    model = {"_name": options.arch, "max_positions": options.n, "projected_length": str(options.k)}
    model["attention"] = attention
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    how = Compute(options.device, dtype, quantize=precision == "int8", batch_tokens=options.batch_tokens)
    return Engine(Checkpoint(untrained(model, VOCABULARY).state_dict(), model), "mean", how)


ABOUT = """Random weights; lengths log-uniform from 16 to n. Cosine: with the vectors in float32, less their mean, the
lowest of all documents."""
TABLE = comparison("Speed of encoding", ABOUT, "documents/s")
QUICK = {"arch": "linformer_roberta_tiny", "n": 512, "k": 128, "documents": 24, "rounds": 1}
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, TABLE, quick=QUICK)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
