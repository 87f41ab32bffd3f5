"""A Linformer from nothing: corpus, vocabulary, pretraining, validation and a filled mask, in under ten minutes.

    make demo                                  or, in an environment that has the project:
    python recipes/demo.py --out demo-run

It downloads nothing: the corpus is the documentation inside the Python packages that are installed here. Each
step is a command that you could type yourself, and is printed as such. Stop it with Ctrl-C whenever you like:
the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from curve import plot_curve
from progress import RunError, read_metrics, run_logged
from recipe import USER_DIR, fairseq_train_argv, register_project

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes/pretrain/tiny_n512_k128.yaml"
SENTENCE = "Returns the <mask> of the array."
CORES = len(os.sched_getaffinity(0))

VOCAB_SIZE = 8192
TRIAL_UPDATES = 30  # to measure the speed of this machine
SECONDS_BESIDE_UPDATES = 60  # starting fairseq three times, validation, filling the mask
FEWEST_UPDATES, MOST_UPDATES = 100, 5000


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "demo-run", metavar="DIR", help="default: demo-run"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=7.5,
        metavar="M",
        help="time for everything; training gets what the other steps leave (default: 7.5)",
    )
    parser.add_argument("--updates", type=int, metavar="N", help="train N updates, however long they take")
    parser.add_argument(
        "--packages",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders whose Python files to read the docstrings of (default: everything installed here)",
    )
    options = parser.parse_args()
    try:
        demo(options.out.resolve(), options.minutes, options.updates, options.packages)
    except RunError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def demo(out: Path, minutes: float, updates: int | None, packages: list[Path]) -> None:
    """Runs every step whose result is not there yet."""
    deadline = time.monotonic() + 60 * minutes
    corpus, tokenizer, data, checkpoints = (
        out / name for name in ("corpus", "tokenizer", "data", "checkpoints")
    )
    log = out / "train.log"
    os.environ.setdefault("OMP_NUM_THREADS", str(CORES))

    step("1/6  Corpus: docstrings of the installed packages, one document per module")
    folders = [path.resolve() for path in packages]
    data_prep("extract", "--source", "docstrings", *folders, "--out", corpus, "--workers", CORES)

    step("2/6  Vocabulary and fairseq data")
    data_prep("tokenizer", corpus, "--out", tokenizer, "--vocab-size", VOCAB_SIZE)
    data_prep("binarize", corpus, "--tokenizer", tokenizer, "--out", data, "--workers", CORES)

    step("3/6  Pretraining: linformer_roberta_tiny reads n = 512 tokens and attends to k = 128")
    total = planned_updates(out, data, updates, deadline - time.monotonic() - SECONDS_BESIDE_UPDATES)
    pretrain(data, checkpoints, log, until=total // 2, total=total)

    step("4/6  Resuming: a second fairseq-train goes on from the checkpoint of the first")
    pretrain(data, checkpoints, log, until=total, total=total)
    print(
        f"resumed from update {last_update(log, 'Loaded'):,}, trained to update {last_update(log, 'Saved'):,}"
    )

    step("5/6  Validation")
    checkpoint = checkpoints / "checkpoint_last.pt"
    perplexity = validate(data, checkpoint, out / "validate.log")
    metrics = read_metrics(log)
    (out / "metrics.jsonl").write_text("".join(json.dumps(figures) + "\n" for figures in metrics))
    plot_curve(metrics, out / "loss.png", "linformer_roberta_tiny on docstrings")

    step("6/6  Filling a mask")
    print(f"  {SENTENCE}")
    for token, probability in fill_mask(data, checkpoint, SENTENCE):
        print(f"  {probability:6.1%}  {token}")

    first = next(figures for figures in metrics if figures["split"] == "train")
    print(f"""
Done: perplexity of masked tokens {first["ppl"]:,.0f} at the start, {perplexity:,.1f} now, on unseen modules.

  {checkpoint}   the model, for fairseq
  {out / "loss.png"}, {out / "metrics.jsonl"}, {log}

Next:
  python recipes/recipe.py {RECIPE.relative_to(ROOT)} {shown(data)} --save-dir longer-run -- --max-update 5000
  python -m data_prep --help                your own text instead: extract --source books or text, then the same
  fairseq-train --user-dir linformer_fairseq --arch linformer_roberta_tiny --help      every setting there is""")


def step(title: str) -> None:
    """Prints a heading."""
    print(f"\n== {title}", flush=True)


def shown(path: Path) -> str:
    """A path as short as it can be written here."""
    return os.path.relpath(path)


def data_prep(*arguments: object) -> None:
    """Runs one stage of data_prep and shows the command."""
    argv = ["-m", "data_prep", *map(str, arguments)]
    print("$", shlex.join(["python", *argv]), flush=True)
    status = subprocess.run([sys.executable, *argv], cwd=ROOT).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise RunError(f"the command above failed (exit status {status})")


def planned_updates(out: Path, data: Path, updates: int | None, seconds: float) -> int:
    """How many updates to train: as asked, as planned by an earlier run, or as many as fit into `seconds`."""
    plan = out / "plan.json"
    if plan.exists():
        total: int = json.loads(plan.read_text())["updates"]
        if updates not in (None, total):
            raise RunError(f"{out} was begun with {total} updates, not {updates}; choose another --out")
        return total
    if updates is None:
        trial = {"checkpoint.no_save": True, "dataset.disable_validation": True}
        argv = train_argv(data, out / "trial", TRIAL_UPDATES, TRIAL_UPDATES, trial)
        run_logged(argv, out / "trial.log", TRIAL_UPDATES, "measuring speed")
        per_second = read_metrics(out / "trial.log")[-1]["ups"]
        updates = round(min(max(seconds * per_second, FEWEST_UPDATES), MOST_UPDATES))
        print(f"{per_second:.2f} updates per second: {updates:,} updates fit")
    plan.write_text(json.dumps({"updates": updates}))
    return updates


def pretrain(data: Path, checkpoints: Path, log: Path, until: int, total: int) -> None:
    """Trains to update `until` of `total`, from the last checkpoint if there is one."""
    if log.exists() and last_update(log, "Saved") >= until:
        print(f"already trained to update {until:,}")
        return
    argv = train_argv(data, checkpoints, until, total, {})
    print("$", shlex.join(argv), flush=True)
    run_logged(argv, log, until, "pretraining")


def train_argv(data: Path, checkpoints: Path, until: int, total: int, more: dict[str, object]) -> list[str]:
    """The command that trains to update `until` with a learning rate that reaches zero at `total`."""
    settings = {
        "optimization.max_update": until,
        "lr_scheduler.total_num_update": total,
        "lr_scheduler.warmup_updates": total // 10,
        "dataset.validate_interval_updates": max(1, total // 8),
        "checkpoint.save_interval_updates": max(1, total // 16),
    }
    return fairseq_train_argv(RECIPE, data, checkpoints, settings | more)


def last_update(log: Path, event: str) -> int:
    """The update of the last checkpoint that a log says was "Saved" or "Loaded", 0 if there was none."""
    found = re.findall(rf"{event} checkpoint \S+ \(epoch \d+ @ (\d+) updates", log.read_text())
    return int(found[-1]) if found else 0


def validate(data: Path, checkpoint: Path, log: Path) -> float:
    """Perplexity of the validation set, measured by fairseq-validate."""
    argv = ["fairseq-validate", str(data), "--user-dir", str(USER_DIR), "--task", "masked_lm"]
    argv += ["--path", str(checkpoint), "--batch-size", "8", "--required-batch-size-multiple", "1"]
    argv += ["--log-format", "json"]
    print("$", shlex.join(argv), flush=True)
    log.unlink(missing_ok=True)
    run_logged(argv, log)
    perplexity: float = read_metrics(log)[-1]["ppl"]
    print(f"perplexity {perplexity:.2f}")
    return perplexity


def fill_mask(data: Path, checkpoint: Path, sentence: str) -> list[tuple[str, float]]:
    """The five most probable words for `<mask>` in a sentence."""
    register_project()
    from linformer_fairseq.models import LinformerRobertaModel

    model = LinformerRobertaModel.from_pretrained(
        str(checkpoint.parent),
        checkpoint_file=checkpoint.name,
        data_name_or_path=str(data),
        bpe="sentencepiece",
        sentencepiece_model=str(data / "sentencepiece.model"),
    )
    return [(token.strip(), probability) for _, probability, token in model.fill_mask(sentence, topk=5)]


if __name__ == "__main__":
    sys.exit(main())
