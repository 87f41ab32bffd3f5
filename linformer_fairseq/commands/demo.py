"""A Linformer from nothing: corpus, vocabulary, pretraining, validation and a filled mask, in under ten minutes.

    make demo                                  or, in an environment that has the project:
    python recipes/demo.py --out demo-run

It downloads nothing: the corpus is the documentation inside the Python packages that are installed here. Each
step is a command that you could type yourself, and is printed as such. Stop it with Ctrl-C whenever you like:
the same command goes on where it was.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf

from linformer_fairseq.commands.arguments import command_parser
from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring.plots import plot_curve
from linformer_fairseq.paths import RECIPES, USER_DIR
from linformer_fairseq.training.progress import parse_line, read_metrics, run_logged
from linformer_fairseq.training.recipe import fairseq_train_argv, register_project

RECIPE = RECIPES / "pretrain/tiny_n512_k128.yaml"
SENTENCE = "Returns the <mask> of the array."
CORES = len(os.sched_getaffinity(0))
THREADS = min(CORES, 2)  # so small a model gives no work to more


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command_parser("demo", __doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-run"), metavar="DIR", help="default: demo-run")
    updates: int = OmegaConf.load(RECIPE).optimization.max_update
    parser.add_argument(
        "--updates", type=int, default=updates, metavar="N", help=f"updates to train (default: {updates})"
    )
    parser.add_argument(
        "--packages",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders whose Python files to read the docstrings of (default: everything installed here)",
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, force=True)  # importing fairseq makes everybody tell everything
    if options.updates < 2:
        parser.error(f"--updates {options.updates}: must be at least 2, half before the stop and half after it")
    demo(options.out.resolve(), options.updates, options.packages)
    return 0


def demo(out: Path, updates: int, packages: list[Path]) -> None:
    """Runs every step whose result is not there yet."""
    data, checkpoints = out / "data", out / "checkpoints"
    log = out / "train.log"
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

    step("1/5  Data: docstrings of the installed packages, one document per module; vocabulary; fairseq's files")
    changes = [f"sources.0.inputs=[{','.join(str(path.resolve()) for path in packages)}]"] if packages else []
    data_prep("run", "demo", *changes, "--out", out, "--workers", CORES)

    step("2/5  Pretraining: linformer_roberta_tiny reads n = 512 tokens and attends to k = 128")
    pretrain(data, checkpoints, log, until=updates // 2, total=updates)

    step("3/5  Resuming: a second fairseq-train goes on from the checkpoint of the first")
    pretrain(data, checkpoints, log, until=updates, total=updates)
    print(f"resumed from update {last_update(log, 'Loaded'):,}, trained to update {last_update(log, 'Saved'):,}")

    step("4/5  Validation")
    checkpoint = checkpoints / "checkpoint_last.pt"
    perplexity = validate(data, checkpoint, out / "validate.log")
    metrics = read_metrics(log)
    (out / "metrics.jsonl").write_text("".join(json.dumps(figures) + "\n" for figures in metrics))
    plot_curve(metrics, out / "loss.png", "linformer_roberta_tiny on docstrings")

    step("5/5  Filling a mask")
    print(f"  {SENTENCE}")
    for token, probability in fill_mask(data, checkpoint, SENTENCE):
        print(f"  {probability:6.1%}  {token}")

    first = next(figures for figures in metrics if figures["split"] == "train")
    print(f"""
Done: perplexity of masked tokens {first["ppl"]:,.0f} at the start, {perplexity:,.1f} now, on unseen modules.

  {shown(checkpoint)}
      the model; fairseq's programs read it with --user-dir linformer_fairseq
  {shown(data)}
      the corpus as fairseq reads it, with its vocabulary
  {shown(out / "loss.png")}
      the loss curve; its figures are in metrics.jsonl, all that fairseq said in train.log

Next:
  python recipes/demo.py --updates {2 * updates} --out {shown(out)}-longer
      train twice as long
  python -m data_prep --help
      your own text: run folder input=my_texts, or stage by stage
  python recipes/recipe.py {shown(RECIPE)} {shown(data)} --save-dir {shown(out)}-exact -- --attention exact
      the same with exact attention; recipes/pretrain has more recipes""")


def step(title: str) -> None:
    """Prints a heading."""
    print(f"\n== {title}", flush=True)


def shown(path: Path) -> str:
    """A path, relative if it lies below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def data_prep(*arguments: object) -> None:
    """Runs data_prep and shows the command."""
    argv = ["-m", "data_prep", *map(str, arguments)]
    print("$", shlex.join(["python", *argv]), flush=True)
    status = subprocess.run([sys.executable, *argv]).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise UsageError(f"the command above failed (exit status {status})")


def pretrain(data: Path, checkpoints: Path, log: Path, until: int, total: int) -> None:
    """Trains to update `until` of `total`, from the last checkpoint if there is one."""
    done = last_update(log, "Saved") if (checkpoints / "checkpoint_last.pt").exists() else 0
    if done >= until:
        print(f"already trained to update {done:,}")
        return
    argv = train_argv(data, checkpoints, until, total)
    print("$", shlex.join(argv), flush=True)
    run_logged(argv, log, range(done, until), "pretraining")


def train_argv(data: Path, checkpoints: Path, until: int, total: int) -> list[str]:
    """The command that trains to update `until` with a learning rate that reaches zero at `total`."""
    settings = {
        "common.log_interval": max(1, total // 150),  # enough points for a curve, however short the run
        "optimization.max_update": until,
        "lr_scheduler.total_num_update": total,
        "lr_scheduler.warmup_updates": total // 10,
        "checkpoint.save_interval_updates": max(1, total // 10),  # fairseq validates at each, too
    }
    return fairseq_train_argv(RECIPE, data, checkpoints, settings)


def last_update(log: Path, event: str) -> int:
    """The update of the checkpoint that was last "Saved" or "Loaded" according to a log; 0 if none was."""
    text = log.read_text() if log.exists() else ""
    found = re.findall(rf"{event} checkpoint \S+ \(epoch \d+ @ (\d+) updates", text)
    return int(found[-1]) if found else 0


def validate(data: Path, checkpoint: Path, log: Path) -> float:
    """Perplexity of the validation set, measured by fairseq-validate."""
    argv = ["fairseq-validate", str(data), "--user-dir", str(USER_DIR), "--task", "masked_lm"]
    argv += ["--path", str(checkpoint), "--batch-size", "8", "--required-batch-size-multiple", "1"]
    argv += ["--log-format", "json"]
    print("$", shlex.join(argv), flush=True)
    log.unlink(missing_ok=True)
    run_logged(argv, log)
    perplexity: float = next(filter(None, map(parse_line, log.read_text().splitlines())))["ppl"]
    print(f"perplexity {perplexity:.2f}")
    return perplexity


def fill_mask(data: Path, checkpoint: Path, sentence: str) -> list[tuple[str, float]]:
    """The five most probable pieces for `<mask>` in a sentence."""
    register_project()
    from linformer_fairseq.models import LinformerRobertaModel

    hub = LinformerRobertaModel.from_pretrained(
        str(checkpoint.parent),
        checkpoint_file=checkpoint.name,
        data_name_or_path=str(data),
        bpe="sentencepiece",
        sentencepiece_model=str(data / "sentencepiece.model"),
    ).eval()
    dictionary = hub.task.source_dictionary
    before, after = (hub.bpe.encode(part) for part in sentence.split("<mask>"))
    text = f"<s> {before} <mask> {after} </s>"
    tokens = dictionary.encode_line(text, append_eos=False, add_if_not_exist=False).long()
    with torch.no_grad():
        logits, _ = hub.model(tokens.unsqueeze(0))
    (position,) = (tokens == dictionary.index("<mask>")).nonzero()[0].tolist()
    best = logits[0, position].softmax(dim=0).topk(5)
    return [(dictionary[i].lstrip("\u2581"), p) for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)]
