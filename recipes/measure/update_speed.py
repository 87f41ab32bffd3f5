"""Whole updates of fairseq-train: ours beside those of fairseq's own Linformer with its Adam and its data path.

    python recipes/measure/update_speed.py DATA --out RUN --report docs/benchmarks/updates/results.md

DATA is a folder of binarised text. Every measurement is a real training in a process of its own, and they take turns.
fairseq's own Linformer is measured without this project, which is registered only for ours. torch.profiler records the
last updates of more trainings, for where their time goes; see `sort` for the rules.
"""

import argparse
import logging
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import fairseq
import torch
from fairseq_cli import train
from torch.profiler import profile, record_function

from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.study import Cells, Measurement, Results, heading, in_a_process, markdown, rounds_of

EXAMPLE = Path(fairseq.__file__).parent / "examples/linformer/linformer_src"
SPECIAL = 5  # <s>, <pad>, </s>, <unk> come before the symbols of dict.txt, <mask> after them
ABOUT = """{threads} threads. {layers} layers, d = {embed_dim}, k = {k}, layerwise sharing, {symbols:,} symbols,
{tokens:,} tokens an update, dropout 0.1, attention dropout 0.1, clip norm 1.0. Theirs is fairseq's
`examples/linformer` with fairseq's `masked_lm` and `adam`, without this project; ours has `fused_masked_lm`,
`fused_adamw` and the task `masked_lm`. Every figure is of a process of its own. The time of an update is that between
the ends of two, data and logs included; of {updates} updates the first {warm_up} do not count. Medians over the rounds
in which the contestants take turns; ratios are within a round."""
PARTS = """
## Where the time of an update goes

Seconds an update, by torch.profiler, which takes time itself (most of it in `host`); the rules are in
`recipes/measure/update_speed.py`.

"""
# The first is what the others are compared with.
THEIRS, _, BF16 = CONTESTANTS = ("fairseq's example, fp32", "ours, fp32", "ours, bf16")

# Marks around operations -> group, where it is the mark that decides.
MARKS = {
    "optimizer": "optimizer",
    "multiply-grads": "clipping",
    "clip-grads": "clipping",
    "backward": "element-wise",
    "anatomy:data": "data",
    "anatomy:criterion": "head and loss",
    "anatomy:encoder": "encoder",
}
GROUPS = ("matrix products", "attention core", "element-wise", "head and loss", "optimizer", "clipping", "data", "host")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "mkldnn_linear", "_addmm_activation")
CORE = ("softmax", "scaled_dot_product", "flash_attention")
CORE_FUNCTIONS = ("_Attend", "_AttendBackward")  # of layers/fused.py


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="folder of binarised text")
    parser.add_argument("--n", type=int, nargs="+", default=[512, 4096], help="tokens of a row (default: 512 4096)")

    def number(flag: str, default: int, about: str) -> None:
        parser.add_argument(flag, type=int, default=default, help=f"{about} (default: {default})")

    number("--rounds", 3, "trainings of each contestant")
    number("--tokens", 4096, "of an update")
    number("--updates", 8, "of each training")
    number("--warm-up", 3, "updates at the start that do not count")
    number("--profile", 2, "updates whose parts are timed")
    number("--symbols", 50265, "fewest symbols of the models")
    number("--workers", 1, "processes that load data")
    number("--threads", len(os.sched_getaffinity(0)), "of each training")
    number("--layers", 12, "of the models")
    number("--embed-dim", 768, "channels")
    number("--ffn-dim", 3072, "channels in the feed-forward sublayer")
    number("--heads", 12, "of attention")
    number("--k", 256, "projected length")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    o = options
    for n in o.n:
        if n < o.k or o.tokens % n:
            raise UsageError(f"--n {n}: rows are at least --k {o.k} long, and --tokens {o.tokens} a multiple")
    if not 1 <= o.warm_up < o.updates or not 1 <= o.profile < o.updates:
        raise UsageError(f"--warm-up and --profile must be at least 1 and below --updates {o.updates}")
    data = with_symbols(o.data, o.symbols, o.out / "data")
    pairs = [(n, name) for n in o.n for name in CONTESTANTS]
    cells.turns({f"n = {n}, {name}": partial(updates_of, o, data, n, name, 0) for n, name in pairs}, o.rounds)
    cells.run({f"n = {n}, {name}, profile": partial(updates_of, o, data, n, name, o.profile) for n, name in pairs})


def with_symbols(data: Path, symbols: int, folder: Path) -> Path:
    """A folder with the text of `data` by links, and a dictionary with which models have at least `symbols` symbols.

    So a model has the embeddings and the head that it would have in earnest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in data.iterdir():
        link = folder / file.name
        if file.suffix in (".bin", ".idx") and not link.exists():
            link.symlink_to(file.resolve())
    lines = (data / "dict.txt").read_text(encoding="utf-8").splitlines()
    lines += [f"madeupword{number:06d} 0" for number in range(symbols - SPECIAL - len(lines))]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def updates_of(o: argparse.Namespace, data: Path, n: int, name: str, profile: int) -> dict[str, Any]:
    """What the training of one contestant gives (see `timed`)."""
    if name == THEIRS:
        own = f"--compressed={n // o.k} --shared-kv-compressed=1 --shared-layer-kv-compressed=1 --task=masked_lm"
        own += " --criterion=masked_lm --optimizer=adam"
    else:
        own = f"--projected-length={o.k} --projection-sharing=layerwise --task=masked_lm --criterion=fused_masked_lm"
        own += f" --optimizer=fused_adamw {'--bf16' if name == BF16 else ''}"
    same = f"""--arch=linformer_roberta_base --encoder-layers={o.layers} --encoder-embed-dim={o.embed_dim}
        --encoder-ffn-embed-dim={o.ffn_dim} --encoder-attention-heads={o.heads} --dropout=0.1
        --attention-dropout=0.1 --tokens-per-sample={n} --max-positions={n} --sample-break-mode=none
        --mask-prob=0.15 --batch-size={o.tokens // n} --required-batch-size-multiple=1 --num-workers={o.workers}
        --clip-norm=1.0 --adam-betas=(0.9,0.98) --adam-eps=1e-6 --weight-decay=0.01 --lr-scheduler=fixed --lr=1e-4
        --max-update={o.updates} --seed=1 --no-save --disable-validation --log-format=json --log-interval=1"""
    log = (o.out / "trainings" / f"n{n} {name}{' profile' if profile else ''}.log").resolve()
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(data.resolve()), *([f"--user-dir={EXAMPLE}"] if name == THEIRS else []), *own.split(), *same.split()]
    try:
        found: dict[str, Any] = in_a_process(timed, words, log, o.threads, name != THEIRS, profile, o.k)()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{name} failed at n = {n} ({error}); see {log}") from error
    return found


def timed(arguments: list[str], log: Path, threads: int, ours: bool, profiled: int, k: int) -> dict[str, Any]:
    """Train in this process, which needs to be one of its own: fairseq and the standard streams stay changed.

    Args:
        log: file for what is printed; the training runs in its folder.
        ours: register this project, as its --user-dir does.
        profiled: updates to profile, the last ones.
        k: projected length, which attention's scores are known by.

    Returns:
        seconds of each update but the first, which has no beginning; tokens and losses of every update; parameters,
        peak_bytes, and if some are profiled the seconds of an update by group.
    """
    with log.open("w", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    logging.basicConfig(format="%(name)s | %(message)s", level=logging.INFO, stream=sys.stdout, force=True)
    os.chdir(log.parent)
    torch.set_num_threads(threads)
    step: Callable[..., Any] = train.Trainer.train_step
    profiler = profile(record_shapes=True)
    ends: list[float] = []
    tokens: list[int] = []
    losses: list[float] = []
    found: dict[str, Any] = {"tokens": tokens, "losses": losses}

    @wraps(step)
    def train_step(trainer: Any, samples: Any, *more: Any, **named: Any) -> Any:
        logged = step(trainer, samples, *more, **named)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        tokens.append(sum(int(sample["ntokens"]) for sample in samples))
        losses.append(float(logged["loss"]))
        left = trainer.cfg.optimization.max_update - trainer.get_num_updates()
        if left == profiled > 0:
            mark_parts(trainer)
            profiler.start()
            ends[-1] = time.perf_counter()
        elif left == 0:
            found["seconds"] = [later - earlier for earlier, later in pairwise(ends)]
            found["parameters"] = sum(parameter.numel() for parameter in trainer.model.parameters())
            if profiled:
                profiler.stop()
                model = trainer.cfg.model
                head_dim = int(model.encoder_embed_dim) // int(model.encoder_attention_heads)
                groups = sort(profiler.events() or (), head_dim, k)  # type: ignore[no-untyped-call]
                groups["host"] = max(0.0, sum(found["seconds"][-profiled:]) - sum(groups.values()))
                found["anatomy"] = {group: groups[group] / profiled for group in GROUPS}
        return logged

    train.Trainer.train_step = train_step  # before anything else wraps it
    if ours:
        from linformer_fairseq.plugin import register

        register()
    sys.argv = ["fairseq-train", *arguments]
    train.cli_main()
    return found | {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def mark_parts(trainer: Any) -> None:
    """Marks around the operations of criterion and encoder, and around waiting for data."""
    encoder, iterator = trainer.get_model().encoder.sentence_encoder, train.iterators.CountingIterator
    for module, name in ((trainer.get_criterion(), "anatomy:criterion"), (encoder, "anatomy:encoder")):
        module.forward = marked(name)(module.forward)
    iterator.__next__ = marked("anatomy:data")(iterator.__next__)


@contextmanager
def marked(name: str) -> Iterator[None]:
    """Makes a new mark for each call that it decorates, as iterators call each other."""
    with record_function(name):
        yield


def sort(events: Iterable[Any], head_dim: int, projected_length: int) -> dict[str, float]:
    """Seconds by group: each operation's own time, without that of the operations that it calls.

    optimizer, clipping: what runs while fairseq's trainer says "optimizer", or "multiply-grads" and "clip-grads".
    head and loss: what the criterion computes outside of the encoder. attention core: in the encoder, softmax, products
    that have a head's dimension, fused attention, all that is computed on scores (B x H x N x K), and all within our
    own function for it. matrix products: the others in the encoder. element-wise: all else in the encoder, and sums of
    gradients. data: waiting for the next batch. An operation of the backward pass belongs to where its forward
    operation was; autograd numbers both alike. The rest of an update is the host's: Python, logs, the profiler.
    """
    seconds: dict[str, float] = {}
    place: dict[int, str] = {}  # where the forward operation with this number was

    def visit(event: Any, phase: str | None) -> None:
        phase = MARKS.get(event.name, phase)
        if phase is not None and "evaluate_function" in event.name:
            phase = place.get(event.sequence_nr, phase)
        elif phase in ("encoder", "head and loss") and event.sequence_nr >= 0:
            place.setdefault(event.sequence_nr, phase)
        if phase == "encoder" and event.name in CORE_FUNCTIONS:
            phase = "attention core"
        if phase is not None and (event.name not in MARKS or phase == "data"):  # waiting is no operation
            group = _encoder_group(event, head_dim, projected_length) if phase == "encoder" else phase
            own = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
            seconds[group] += own / 1e6
        for child in event.cpu_children:
            visit(child, phase)

    roots = [event for event in events if event.cpu_parent is None]
    for _ in range(2):  # the second time all places are known
        seconds = defaultdict(float)
        for event in roots:
            visit(event, None)
    return seconds


def _encoder_group(event: Any, head_dim: int, projected_length: int) -> str:
    name = event.name.removeprefix("aten::").removesuffix("_")
    shapes = [shape for shape in event.input_shapes if shape]
    if name in PRODUCTS:
        core = name in ("bmm", "baddbmm") and any(head_dim in shape[1:] for shape in shapes)
        return "attention core" if core else "matrix products"
    on_scores = bool(shapes) and len(shapes[0]) >= 3 and shapes[0][-1] == projected_length
    return "attention core" if on_scores or any(word in name for word in CORE) else "element-wise"


def table(results: Results) -> str:
    """Seconds and tokens/s of an update, its speed relative to the example's, and where its time goes."""
    s, cells = results["settings"], results["cells"]
    lengths = sorted({int(name.split(",")[0].removeprefix("n = ")) for name in cells})
    rows, parts = [], []
    for n in lengths:
        runs = {name: rounds_of(cells, f"n = {n}, {name}") for name in CONTESTANTS}
        counted = slice(max(0, s["warm_up"] - 1), None)  # the very first update has no time of its own
        medians = {name: [median(run["seconds"][counted]) for run in found] for name, found in runs.items()}
        for name, took in medians.items():
            ratios = [theirs / ours for theirs, ours in zip(medians[THEIRS], took, strict=True)]
            speed = median(runs[name][0]["tokens"]) / median(took)
            figures = [f"{median(took):.2f}", f"{speed:,.0f}", f"{median(ratios):.2f}"]
            peak = max(run["peak_bytes"] for run in runs[name]) / 1e9
            size = runs[name][0]["parameters"] / 1e6
            rows.append([n, name, *figures, f"{min(ratios):.2f}-{max(ratios):.2f}", f"{peak:.1f}", f"{size:.1f}"])
        anatomy = [cells[f"n = {n}, {name}, profile"]["anatomy"] for name in CONTESTANTS]
        lines = [[group, *(f"{each[group]:.3f}" for each in anatomy)] for group in GROUPS]
        lines.append(["all", *(f"{sum(each.values()):.3f}" for each in anatomy)])
        parts.append(markdown([f"n = {n}", *CONTESTANTS], lines))
    header = ["n", "", "s/update", "tokens/s", "speed", "lowest and highest", "peak memory (GB)", "M parameters"]
    head = heading("Whole updates of fairseq-train", results, ABOUT.format(**s))
    return head + markdown(header, rows, left=2) + PARTS + "\n".join(parts)


QUICK = {"n": [32], "k": 8, "tokens": 128, "updates": 3, "warm_up": 1, "rounds": 1, "profile": 1, "symbols": 100}
QUICK |= {"layers": 1, "embed_dim": 32, "ffn_dim": 64, "heads": 2, "workers": 0}
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, table, quick=QUICK, choices=("n",))

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
