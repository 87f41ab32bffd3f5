"""Compute memory, time, energy and disk of a pretraining run before it is started, and say what to change.
Ends with status 1 if the run does not fit. Nothing is allocated, and no GPU is needed. CUDA: run on one H100 for the
memory, not yet for the time, which --calibrate takes from a run on the device.

    linformer plan base_n4096_k256 --gpus 64 --device v100-16gb
    linformer plan my.yaml DATA --gpus 8 --device a100-80gb -- --batch-size 16 --update-freq 4
    linformer plan base_n512_k128 --device l4 --gpus 1 --sweep      which k, n and batch fit
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from linformer_fairseq.commands.arguments import at_dashes, command_parser
from linformer_fairseq.planning.devices import DEVICES
from linformer_fairseq.ranges import real, whole

if TYPE_CHECKING:
    from linformer_fairseq.planning.plan import Plan

VOCABULARY = 50265  # of RoBERTa, where no DATA is given
LENGTHS, PROJECTED = (512, 1024, 2048, 4096, 8192, 16384), (128, 256)


def main(argv: Sequence[str]) -> int:
    """The command line."""
    own, more = at_dashes(argv)
    usage = "%(prog)s [-h] [--gpus N] [--device NAME] [--sweep] RECIPE [DATA] [-- MORE FAIRSEQ FLAGS]"
    parser = command_parser("plan", __doc__, usage=usage)
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="YAML file, or a name that `linformer train --list` prints")
    add("data", metavar="DATA", nargs="?", help="folder of binarised text, for the size of the vocabulary")
    add("--gpus", type=whole(1, 1_000_000), default=64, metavar="N", help="in all (default: %(default)s)")
    add("--device", default="v100-16gb", metavar="NAME", help=f"one of {', '.join(DEVICES)} (default: %(default)s)")
    add("--utilisation", type=real(0.001, 1), default=0.3, help="share of the peak that is reached (default: 0.3)")
    calibrate = "take the speed from this training run on the device, of some updates of the recipe or one like it"
    add("--calibrate", type=Path, metavar="RUN", help=calibrate)
    add("--price", type=real(0, 1e9), metavar="P", help="of a GPU for an hour, in any currency")
    add("--sweep", action="store_true", help="instead, the largest batch that fits by n and k")
    a = parser.parse_args(own)
    from linformer_fairseq.planning.plan import measured_speed, plan_of
    from linformer_fairseq.training.recipe import fairseq_train_argv, find_recipe

    argv = fairseq_train_argv(find_recipe(a.recipe), a.data or "DATA", Path("RUN"), more=more)
    measured = None if a.calibrate is None else measured_speed(a.calibrate)
    plan = plan_of(argv, a.device, a.gpus, None if a.data else VOCABULARY)
    plan = replace(plan, utilisation=a.utilisation, measured=measured)
    if a.sweep:
        sweep(plan)
        return 0
    show(plan, a.price)
    plan.refuse_too_large()
    for line in plan.advice():
        print(f"advice      {line}")
    return 0


def show(plan: Plan, price: float | None) -> None:
    """Print the plan."""
    batch = f"{plan.gpus} GPUs x {plan.rows} rows x {plan.cfg.max_positions} tokens x {plan.accumulated} batches"
    parts = ", ".join(f"{part} {size / 1e9:.1f}" for part, size in plan.memory.items())
    memory = f"{sum(plan.memory.values()) / 1e9:.1f} of {plan.device.gigabytes:g} GB of a GPU ({plan.mode}): {parts}"
    tokens = plan.updates * plan.tokens
    print(f"update      {plan.tokens:,} tokens: {batch} (--update-freq)")
    print(f"memory      {memory}")
    print(f"operations  {plan.operations:.1e} in {plan.updates:,} updates, {tokens:.1e} tokens")
    if (seconds := plan.seconds) is None:
        print(f"time        not known: no figure for {plan.mode} of {plan.device.cuda_name}")
    else:
        hours = seconds / 3600
        speed = f"{plan.utilisation:.0%} of the peak"
        if plan.measured is not None:
            speed = f"the measured {plan.measured / 1e12:.3g} TFLOP/s of a GPU"
        print(f"time        {hours:,.{0 if hours >= 10 else 2}f} hours at {speed}, {tokens / seconds:,.0f} tokens/s")
        cost = "" if price is None else f", {hours * plan.gpus * price:,.0f} at {price:g} for a GPU and hour"
        print(f"energy      at most {hours * plan.gpus * plan.device.watts / 1000:,.0f} kWh of GPUs{cost}")
    print(f"disk        {plan.disk / 1e9:.1f} GB for {plan.checkpoints} checkpoints; data takes 2 bytes a token")


def sweep(plan: Plan) -> None:
    """Print the largest batch of one GPU by n and k, with and without recomputed activations."""
    fit = f"rows of a batch that fit {plan.device.gigabytes:g} GB in {plan.mode}"
    print(f"{fit}; in brackets, with --checkpoint-activations")
    print(f"{'n':>8}" + "".join(f"{f'k = {k}':>16}" for k in PROJECTED))
    for n in LENGTHS:
        sized = [replace(plan, cfg=replace(plan.cfg, max_positions=n, projected_length=k)) for k in PROJECTED]
        rows = [[one.recomputing(recompute).most_rows() for recompute in (False, True)] for one in sized]
        print(f"{n:>8}" + "".join(f"{f'{plain} ({again})':>16}" for plain, again in rows))
