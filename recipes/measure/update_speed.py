"""Whole updates of fairseq-train: ours beside those of fairseq's own Linformer with its Adam and its data path.

    python recipes/measure/update_speed.py DATA --out RUN --report docs/benchmarks/updates/results.md

DATA is a folder of binarised text. Every measurement is a real training in a process of its own, and they take turns.
fairseq's own Linformer is measured without this project.
"""

import os
import re
import resource
from pathlib import Path
from statistics import median
from typing import Any

import fairseq

from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring import study
from linformer_fairseq.measuring.study import Cells, Options, Results, flag, plain
from linformer_fairseq.measuring.trainings import with_symbols
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.training.progress import parse_line, run_logged

EXAMPLE = Path(fairseq.__file__).parent / "examples/linformer/linformer_src"
ABOUT = """{threads} threads. {layers} layers, d = {embed_dim}, k = {k}, layerwise sharing, {symbols:,} symbols,
{tokens:,} tokens an update, dropout 0.1, attention dropout 0.1, clip norm 1.0. Theirs is fairseq's
`examples/linformer` with fairseq's `masked_lm` and `adam`, without this project; ours has `fused_masked_lm`,
`fused_adamw` and the task `masked_lm`. Every figure is of a process of its own. The time of an update is that between
the ends of two, data and logs included; of {updates} updates the first {warm_up} do not count. Medians over the rounds
in which the contestants take turns; ratios are within a round."""
# The first is what the others are compared with.
THEIRS, _, BF16 = CONTESTANTS = ("fairseq's example, fp32", "ours, fp32", "ours, bf16")


def measure(o: Options, cells: Cells) -> None:
    for n in o.n:
        if n < o.k or o.tokens % n:
            raise UsageError(f"--n {n}: rows are at least --k {o.k} long, and --tokens {o.tokens} a multiple")
    if not 1 <= o.warm_up < o.updates:
        raise UsageError(f"--warm-up must be at least 1 and below --updates {o.updates}")
    data = with_symbols(o.data, o.symbols, o.out / "data")
    pairs = [(n, name) for n in o.n for name in CONTESTANTS]
    cells.turns({f"n = {n}, {name}": study.in_a_process(updates_of, o, data, n, name) for n, name in pairs}, o.rounds)


def updates_of(o: Options, data: Path, n: int, name: str) -> dict[str, Any]:
    """Trains one contestant from this process, which starts nothing else.

    Returns:
        seconds of each update but the first, which has no beginning; tokens and losses of every update; parameters
        and peak_bytes.
    """
    if name == THEIRS:
        own = f"--user-dir={EXAMPLE} --compressed={n // o.k} --shared-kv-compressed=1 --shared-layer-kv-compressed=1"
        own += " --criterion=masked_lm --optimizer=adam"
    else:
        own = f"--user-dir={USER_DIR} --projected-length={o.k} --projection-sharing=layerwise"
        own += f" --criterion=fused_masked_lm --optimizer=fused_adamw {'--bf16' if name == BF16 else ''}"
    same = f"""--arch=linformer_roberta_base --encoder-layers={o.layers} --encoder-embed-dim={o.embed_dim}
        --encoder-ffn-embed-dim={o.ffn_dim} --encoder-attention-heads={o.heads} --dropout=0.1
        --attention-dropout=0.1 --task=masked_lm --tokens-per-sample={n} --max-positions={n} --sample-break-mode=none
        --mask-prob=0.15 --batch-size={o.tokens // n} --required-batch-size-multiple=1 --num-workers=1
        --clip-norm=1.0 --adam-betas=(0.9,0.98) --adam-eps=1e-6 --weight-decay=0.01 --lr-scheduler=fixed --lr=1e-4
        --max-update={o.updates} --seed=1 --no-save --disable-validation --log-format=json --log-interval=1"""
    folder = o.out / "trainings"
    log = folder / f"n{n} {name}.log"
    log.unlink(missing_ok=True)
    os.environ["OMP_NUM_THREADS"] = str(o.threads)
    run_logged(["fairseq-train", str(data), "--save-dir", str(folder / "none"), *own.split(), *same.split()], log)
    text = log.read_text(encoding="utf-8")
    updates = [figures for line in text.splitlines() if (figures := parse_line(line))]
    parameters = re.search(r"num\. shared model params: ([\d,]+)", text)
    assert parameters is not None
    return {
        "seconds": [update["wpb"] / update["wps"] for update in updates[1:]],
        "tokens": [int(update["wpb"]) for update in updates],
        "losses": [update["loss"] for update in updates],
        "parameters": int(parameters[1].replace(",", "")),
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }


def table(results: Results) -> str:
    """Seconds and tokens/s of an update, and its speed relative to the example's."""
    s, cells = results["settings"], results["cells"]
    lengths = sorted({int(name.split(",")[0].removeprefix("n = ")) for name in cells})
    rows = []
    for n in lengths:
        runs = {name: study.rounds_of(cells, f"n = {n}, {name}") for name in CONTESTANTS}
        counted = slice(max(0, s["warm_up"] - 1), None)  # the very first update has no time of its own
        medians = {name: [median(run["seconds"][counted]) for run in found] for name, found in runs.items()}
        for name, took in medians.items():
            ratios = [theirs / ours for theirs, ours in zip(medians[THEIRS], took, strict=True)]
            speed = median(runs[name][0]["tokens"]) / median(took)
            figures = [f"{median(took):.2f}", f"{speed:,.0f}", f"{median(ratios):.2f}"]
            peak = max(run["peak_bytes"] for run in runs[name]) / 1e9
            size = runs[name][0]["parameters"] / 1e6
            rows.append([n, name, *figures, f"{min(ratios):.2f}-{max(ratios):.2f}", f"{peak:.1f}", f"{size:.1f}"])
    header = ["n", "", "s/update", "tokens/s", "speed", "lowest and highest", "peak memory (GB)", "M parameters"]
    head = study.heading("Whole updates of fairseq-train", results, ABOUT.format(**s))
    return head + study.markdown(header, rows, left=2)


FLAGS = [
    flag("data", Path, "folder of binarised text"),
    flag("--n", [512, 4096], "tokens of a row", quick=[32], cells=True),
    flag("--tokens", 4096, "of an update", quick=128),
    flag("--warm-up", 3, "updates at the start that do not count", quick=1, least=0),
    *plain(rounds=(3, 1), updates=(8, 3), threads=len(os.sched_getaffinity(0)), k=(256, 8)),
    *plain(symbols=(50265, 100), layers=(12, 1), embed_dim=(768, 32), ffn_dim=(3072, 64), heads=(12, 2)),
]
MEASUREMENT = study.Measurement(__file__, __doc__, FLAGS, measure, table)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
