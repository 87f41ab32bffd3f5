"""From the results of all processes to a table, the lines of the contract, and where the time goes."""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recipes.reproduce.updates.anatomy import GROUPS
from recipes.reproduce.updates.contestants import CONTESTANTS

# Speed of ours relative to the example's, by the folder of the contestant.
REQUIRED = {"ours-fp32": 1.25, "ours-bf16": 2.0}

Results = Mapping[int, Mapping[str, Sequence[Mapping[str, Any]]]]
"""n -> folder of a contestant -> what each round's process has written."""


def summary(results: Results, warm_up: int) -> list[dict[str, Any]]:
    """A line for each n and contestant: seconds and tokens/s of an update, and its speed relative to the example's."""
    lines: list[dict[str, Any]] = []
    for n, contestants in results.items():
        base = [_median(run, warm_up) for run in contestants[CONTESTANTS[0].folder]]
        for contestant in CONTESTANTS:
            runs = contestants[contestant.folder]
            medians = [_median(run, warm_up) for run in runs]
            ratios = [theirs / ours for theirs, ours in zip(base, medians, strict=True)]
            required = REQUIRED.get(contestant.folder)
            lines.append(
                {
                    "n": n,
                    "contestant": contestant.name,
                    "seconds": statistics.median(medians),
                    "tokens_per_second": statistics.median(runs[0]["tokens"]) / statistics.median(medians),
                    "ratio": statistics.median(ratios),
                    "ratios": ratios,
                    "required": required,
                    "met": None if required is None else statistics.median(ratios) >= required,
                    "peak_bytes": max(run["peak_bytes"] for run in runs),
                    "parameters": runs[0]["parameters"],
                    "last_loss": runs[0]["losses"][-1],
                }
            )
    return lines


def _median(run: Mapping[str, Any], warm_up: int) -> float:
    """Seconds of an update, after the first `warm_up`; the very first one has no time of its own."""
    return float(statistics.median(run["seconds"][max(0, warm_up - 1) :]))


def markdown(lines: Sequence[Mapping[str, Any]], anatomy: Results, about: Mapping[str, Any], options: Namespace) -> str:
    """The report."""
    parts = [*_head(about, options), *_speed(lines), *_contract(lines), *_anatomy(anatomy)]
    return "\n".join(parts) + "\n"


def _head(about: Mapping[str, Any], options: Namespace) -> Iterator[str]:
    yield "# Whole updates of fairseq-train\n"
    yield f"`{about['command']}`\n"
    machine = ", ".join(f"{key} {value}" for key, value in about["machine"].items() if value is not None)
    yield f"{machine}.\n"
    yield (
        f"{options.layers} layers, d = {options.embed_dim}, k = {options.k}, {options.sharing} sharing, "
        f"{options.symbols:,} symbols, {options.tokens:,} tokens an update, dropout 0.1, attention dropout "
        f"{options.attention_dropout}, clip norm {options.clip_norm}. Theirs is fairseq's `examples/linformer` "
        "with fairseq's `masked_lm` and `adam`, without this project; ours has `fused_masked_lm`, `fused_adamw` "
        f"and the task `{options.task}`. Every figure is of a process of its own. The time of an update is that "
        f"between the ends of two, data and logs included; of {options.updates} updates the first "
        f"{options.warm_up} do not count. Medians over the rounds ({options.rounds}) in which the contestants take "
        "turns; ratios are within a round.\n"
    )


def _speed(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| n | | s/update | tokens/s | speed | lowest and highest | peak memory (GB) |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for line in lines:
        low, high = min(line["ratios"]), max(line["ratios"])
        yield (
            f"| {line['n']} | {line['contestant']} | {line['seconds']:.2f} | {line['tokens_per_second']:,.0f} "
            f"| {line['ratio']:.2f} | {low:.2f}-{high:.2f} | {line['peak_bytes'] / 1e9:.1f} |"
        )
    theirs, ours = lines[0]["parameters"] / 1e6, lines[-1]["parameters"] / 1e6
    yield f"\nTheirs has {theirs:.1f} M parameters at n = {lines[0]['n']}, ours {ours:.1f} M at {lines[-1]['n']}.\n"


def _contract(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| required, beside fairseq's example in fp32 | required | seen | |\n| --- | ---: | ---: | --- |"
    for line in lines:
        if line["required"] is not None:
            verdict = "met" if line["met"] else "**not met**"
            seen = f"{line['required']:.2f} | {line['ratio']:.2f} | {verdict}"
            yield f"| {line['contestant']}, n = {line['n']} | {seen} |"
    yield ""


def _anatomy(anatomy: Results) -> Iterator[str]:
    yield "## Where the time of an update goes\n"
    yield "Seconds an update, by torch.profiler, which takes time itself (most of it in `host`); the rules are in"
    yield "`recipes/reproduce/updates/anatomy.py`.\n"
    for n, contestants in anatomy.items():
        yield f"| n = {n} | " + " | ".join(c.name for c in CONTESTANTS) + " |"
        yield "| --- |" + " ---: |" * len(CONTESTANTS)
        found = [contestants[c.folder][0]["anatomy"] for c in CONTESTANTS]
        for group in GROUPS:
            yield f"| {group} | " + " | ".join(f"{each[group]:.3f}" for each in found) + " |"
        yield "| all | " + " | ".join(f"{sum(each.values()):.3f}" for each in found) + " |\n"
