"""Speed of encoding documents of mixed length: one at a time, in batches as they come, and in batches of like length.

    python recipes/reproduce/encode_speed.py --out docs/benchmarks/encode      about an hour on 2 cores
    python recipes/reproduce/encode_speed.py --quick --out encode              a minute: a small model, to try it

A Linformer of base size beside the same model with exact attention, both with random weights, on which speed does not
depend; in float32, bfloat16 (autocast) and, on a CPU, 8-bit integers. Lengths are drawn log-uniformly. All ways take
turns on the same documents, so that a busy machine is busy for all of them; figures are medians of the rounds.
OUT/speed.md and OUT/speed.json hold them, with versions and this command.
"""

# ruff: noqa: E402 (the path is set before the imports)

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]

import numpy as np
import torch
from tqdm import tqdm

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, complete_settings, symbols
from linformer_fairseq.errors import UsageError, as_one_sentence
from linformer_fairseq.inference.engine import OVERHEAD, Batching, Compute, Engine, Values
from linformer_fairseq.inference.sequences import BOS, EOS, Ids, as_they_come, like_length
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel
from recipes.reproduce.command import as_typed

VOCABULARY = 1000  # the embedding takes no time
WAYS: dict[str, Batching] = {
    "one at a time": lambda lengths, *_: as_they_come(lengths, 1),
    "in order, padded": as_they_come,
    "like length": like_length,
}
ATTENTIONS = ("linformer", "exact")
PRECISIONS = {"float32": Compute(), "bfloat16": Compute(dtype="bfloat16"), "int8": Compute(quantize=True)}
BASE = {"_name": "linformer_roberta_base", "max_positions": 4096, "projected_length": "256"}
QUICK = {"_name": "linformer_roberta_tiny", "max_positions": 512, "projected_length": "128"}


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        model: settings of the Linformer.
        documents: how many, of 16 tokens to what the model reads.
        rounds: of all ways in turns.
        device: to compute on.
        batch_tokens: of the batches; None for the default of the device.
    """

    model: Mapping[str, Any]
    documents: int
    rounds: int
    device: str
    batch_tokens: int | None = None


def main(words: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for speed.md and speed.json")
    parser.add_argument("--documents", type=int, metavar="N", help="default: 64, with --quick 24")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 3, with --quick 1")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="on a CPU (default: all cores)")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="in a batch, pads counted (default: encode.py's)")
    parser.add_argument("--quick", action="store_true", help="a small model and few documents; not to be published")
    a = parser.parse_args(words)
    for flag in ("documents", "rounds", "threads", "batch_tokens"):
        value = getattr(a, flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {value}: must be at least 1")
    torch.set_num_threads(a.threads or len(os.sched_getaffinity(0)))
    plan = Plan(
        QUICK if a.quick else BASE,
        a.documents or (24 if a.quick else 64),
        a.rounds or (1 if a.quick else 3),
        a.device,
        a.batch_tokens,
    )
    found = {"command": as_typed(__file__, words), **measure(plan)}
    for name, text in (("speed.json", json.dumps(found, indent=1) + "\n"), ("speed.md", report(found))):
        with replace_when_done(a.out / name, force=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(report(found))


def measure(plan: Plan) -> dict[str, Any]:
    """All figures, as they are kept in speed.json: of each attention, precision and way the seconds of each round."""
    ids = documents(plan.documents, int(plan.model["max_positions"]))
    engines = {
        (attention, precision): engine(plan, attention, compute)
        for attention, (precision, compute) in product(ATTENTIONS, PRECISIONS.items())
        if plan.device == "cpu" or not compute.quantize
    }
    vectors: dict[tuple[str, str], Values] = {}
    runs: dict[tuple[str, str, str], list[float]] = {(*key, way): [] for key in engines for way in WAYS}
    with tqdm(total=(plan.rounds + 1) * len(engines) * len(WAYS), unit=" runs") as bar:
        for number in range(plan.rounds + 1):
            for (attention, precision, way), seconds in runs.items():
                # The first round warms up, with few documents for those that take long.
                some = ids if number or way == "like length" else ids[:4]
                start = time.perf_counter()
                values = engines[attention, precision].run(some, batching=WAYS[way])
                if number:
                    seconds.append(time.perf_counter() - start)
                elif way == "like length":
                    vectors[attention, precision] = values
                bar.update()
    any_engine = next(iter(engines.values()))
    return {
        "device": torch.cuda.get_device_name(plan.device) if plan.device.startswith("cuda") else cpu(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy")}},
        "model": {**plan.model, "weights": "random"},
        "documents": len(ids),
        "tokens": sum(map(len, ids)),
        "batch_tokens": any_engine.batch_tokens,
        "computed_tokens": {name: padded(ids, way, any_engine) for name, way in WAYS.items()},
        "rounds": plan.rounds,
        "runs": [dict(zip(("attention", "precision", "way"), k, strict=True), seconds=s) for k, s in runs.items()],
        "agreement": [
            {"attention": key[0], "precision": key[1], **agreement(vectors[key[0], "float32"], found)}
            for key, found in vectors.items()
            if key[1] != "float32"
        ],
    }


def documents(count: int, longest: int) -> list[Ids]:
    """Random documents; their lengths are log-uniform from 16 to `longest` tokens."""
    chance = np.random.default_rng(1)
    lengths = np.exp(chance.uniform(np.log(16), np.log(longest), count)).astype(int)
    return [np.array([BOS, *chance.integers(4, VOCABULARY - 1, length - 2), EOS]) for length in lengths]


def engine(plan: Plan, attention: str, compute: Compute) -> Engine:
    """The model with one kind of attention, its weights random but the same for all precisions."""
    model = {**plan.model, "attention": attention}
    settings = complete_settings(model)
    torch.manual_seed(1)
    built = LinformerRobertaModel(settings, LinformerRobertaEncoder(settings, symbols(VOCABULARY)))
    how = Compute(plan.device, compute.dtype, compute.quantize, batch_tokens=plan.batch_tokens)
    return Engine(Checkpoint(built.state_dict(), model), "mean", how)


def padded(ids: Sequence[Ids], batching: Batching, engine: Engine) -> int:
    """Tokens that are computed, pads counted."""
    lengths = [len(part) for part in ids]
    batches = batching(lengths, engine.batch_tokens, OVERHEAD.get(engine.device.type, 64))
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


def agreement(wanted: Values, found: Values) -> dict[str, float]:
    """Cosines of the vectors of each document: the lowest, and that of their differences from the mean vector.

    Vectors of a model are more or less parallel, so the first is high in any case; the second compares what tells the
    documents apart.
    """

    def lowest(one: Values, two: Values) -> float:
        return float(torch.cosine_similarity(torch.from_numpy(one), torch.from_numpy(two)).min())

    centre = wanted.mean(0)
    return {"lowest cosine": lowest(wanted, found), "centred": lowest(wanted - centre, found - centre)}


def cpu() -> str:
    """The name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def report(found: Mapping[str, Any]) -> str:
    """The Markdown of what `measure` has found."""
    middle = {(run["attention"], run["precision"], run["way"]): median(run["seconds"]) for run in found["runs"]}
    model, computed = found["model"], found["computed_tokens"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines = [
        "# Speed of encoding",
        "",
        f"`{found['command']}`: {model['_name']} with n = {model['max_positions']:,}, k = {model['projected_length']} "
        f"and random weights; {found['documents']} documents, {found['tokens']:,} tokens, lengths log-uniform from 16 "
        f"to n; at most {found['batch_tokens']:,} tokens a batch. {found['device']}, threads: {found['threads']}, "
        f"{versions}. Medians of {found['rounds']} rounds in which all take turns; the last column: how many times as "
        "fast as one at a time with the same attention and precision.",
        "",
        "| attention | precision | batches | pads | documents/s | tokens/s | |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for (attention, precision, way), seconds in middle.items():
        figures = (
            f"{computed[way] / found['tokens'] - 1:.0%}",
            f"{found['documents'] / seconds:.2f}",
            f"{found['tokens'] / seconds:,.0f}",
            f"{middle[attention, precision, 'one at a time'] / seconds:.2f}",
        )
        lines.append(f"| {' | '.join((attention, precision, way, *figures))} |")
    ratios = ", ".join(
        f"{middle['exact', precision, 'like length'] / seconds:.2f} in {precision}"
        for (attention, precision, way), seconds in middle.items()
        if attention == "linformer" and way == "like length"
    )
    lines += [
        "",
        f"In batches of like length, a Linformer is so many times as fast as exact attention: {ratios}.",
        "",
        "Agreement with the vectors in float32, the lowest cosine of all documents; centred: less their mean vector. "
        "Weights are random; a trained model may differ.",
        "",
        "| attention | precision | cosine | centred |",
        "|---|---|---:|---:|",
    ]
    for entry in found["agreement"]:
        cosine, centred = entry["lowest cosine"], entry["centred"]
        lines.append(f"| {entry['attention']} | {entry['precision']} | {cosine:.5f} | {centred:.5f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with as_one_sentence():
        main(sys.argv[1:])
