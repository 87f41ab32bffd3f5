"""A Linformer from nothing: corpus, vocabulary, pretraining, validation and a filled mask, in under ten minutes.

It downloads nothing: the corpus is the documentation inside the installed Python packages. Each step is a command
that you could type yourself, and is printed. Stop it with Ctrl-C at any time: the same command resumes.
"""

import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from linformer_fairseq.commands.arguments import command_parser
from linformer_fairseq.environment import cpu_cores
from linformer_fairseq.io.files import check_folder
from linformer_fairseq.io.processes import child_environment
from linformer_fairseq.paths import RECIPES, USER_DIR
from linformer_fairseq.ranges import whole

RECIPE = RECIPES / "pretrain/tiny_n512_k128_muon.yaml"
UPDATES = 1100  # fewer than the recipe's, for a result in minutes
SENTENCE = "Returns the <mask> of the array."


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    parser = command_parser("demo", __doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo-run"), metavar="DIR", help="default: demo-run")
    add("--updates", type=whole(2, 10_000_000), default=UPDATES, metavar="N", help="default: %(default)s")
    packages = "folders of Python files whose docstrings are the corpus (default: all installed packages)"
    add("--packages", type=Path, nargs="+", default=[], metavar="DIR", help=packages)
    a = parser.parse_args(argv)
    check_folder(a.out)
    logging.basicConfig(level=logging.WARNING, force=True)  # importing fairseq sets INFO for every logger
    os.environ.setdefault("OMP_NUM_THREADS", str(min(cpu_cores(), 2)))  # the model is too small to use more
    demo(a.out, a.updates, a.packages)
    return 0


def demo(out: Path, updates: int, packages: list[Path]) -> None:
    """Run every step whose result does not exist yet."""
    from linformer_fairseq.measuring.plots import plot_curve
    from linformer_fairseq.training.metrics import read_metrics

    print("\n== 1/5  Data: docstrings of the installed packages, a document per module; vocabulary; fairseq's files")
    changes = [f"sources.0.inputs=[{','.join(str(path.resolve()) for path in packages)}]"] if packages else []
    prepare = ["prepare", "run", "demo", *changes, "--out", str(out), "--workers", str(cpu_cores())]
    print("$", shlex.join(["linformer", *prepare]), flush=True)
    status = subprocess.call([sys.executable, "-m", "linformer_fairseq", *prepare], env=child_environment())
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise SystemExit(status)  # it has said why

    print("\n== 2/5  Pretraining: linformer_roberta_tiny reads n = 512 tokens and attends to k = 128")
    pretrain(out, until=updates // 2, total=updates)

    print("\n== 3/5  Resuming: a second fairseq-train resumes from the checkpoint of the first")
    pretrain(out, until=updates, total=updates)
    log, checkpoint = out / "train.log", out / "checkpoints/checkpoint_last.pt"
    print(f"resumed from update {last_update(log, 'Loaded'):,}, trained to update {last_update(log, 'Saved'):,}")

    print("\n== 4/5  Validation")
    perplexity = validate(out, checkpoint)
    print(f"perplexity {perplexity:.2f}")
    metrics = read_metrics(checkpoint.parent)
    plot_curve(metrics, out / "loss.png", "linformer_roberta_tiny on docstrings")

    print(f"\n== 5/5  Filling a mask\n  {SENTENCE}")
    for probability, token in fill_mask(out / "data", checkpoint):
        print(f"  {probability:6.1%}  {token}")

    start = next(line["perplexity"] for line in metrics if line["split"] == "train")
    print(f"""
Done: perplexity of masked tokens {start:,.0f} at the start, {perplexity:,.1f} now, on unseen modules.

  {checkpoint}
      the model; fairseq's programs read it with --user-dir linformer_fairseq
  {out / "data"}
      the corpus as fairseq reads it, with its vocabulary
  {out / "loss.png"}
      the loss curve; its figures are in checkpoints/metrics.jsonl, fairseq's log in train.log

Next:
  linformer demo --updates {2 * updates} --out {out}-longer
      train twice as long
  linformer prepare --help
      your own text: run folder input=my_texts, or stage by stage
  linformer train {RECIPE.stem} {out / "data"} --save-dir {out}-exact -- --attention exact
      the same with exact attention""")


def pretrain(out: Path, until: int, total: int) -> None:
    """Train to update `until`, with a learning rate that reaches zero at `total`; resume if there is a checkpoint."""
    from linformer_fairseq.measuring.trainings import schedule
    from linformer_fairseq.training.progress import run_logged
    from linformer_fairseq.training.recipe import fairseq_train_argv

    log = out / "train.log"
    done = last_update(log, "Saved") if (out / "checkpoints/checkpoint_last.pt").exists() else 0
    if done >= until:
        print(f"already trained to update {done:,}")
        return
    often = {"common.log_interval": max(1, total // 150)}  # enough points for a curve, however short the run
    settings = schedule(total) | often | {"optimization.max_update": until}
    argv = fairseq_train_argv(RECIPE, out / "data", out / "checkpoints", settings)
    print("$", shlex.join(argv), flush=True)
    run_logged(argv, log, until, "pretraining")


def last_update(log: Path, event: str) -> int:
    """The update of the checkpoint that was last "Saved" or "Loaded" according to a log; 0 if none was."""
    text = log.read_text() if log.exists() else ""
    found = re.findall(rf"{event} checkpoint \S+ \(epoch \d+ @ (\d+) updates", text)
    return int(found[-1]) if found else 0


def validate(out: Path, checkpoint: Path) -> float:
    """Perplexity of the validation set, measured by fairseq-validate."""
    from linformer_fairseq.training.progress import parse_line, run_logged

    argv = ["fairseq-validate", str(out / "data"), "--user-dir", str(USER_DIR), "--path", str(checkpoint)]
    argv += "--task streaming_masked_lm --batch-size 8 --required-batch-size-multiple 1 --log-format json".split()
    print("$", shlex.join(argv), flush=True)
    log = out / "validate.log"
    run_logged(argv, log)
    *_, figures = filter(None, map(parse_line, log.read_text().splitlines()))
    return float(figures["ppl"])


def fill_mask(data: Path, checkpoint: Path) -> list[tuple[float, str]]:
    """The five most probable tokens for `<mask>` in SENTENCE, with their probabilities."""
    import torch

    from linformer_fairseq.plugin import register

    register()
    from linformer_fairseq.models import LinformerRobertaModel

    tokenizer = {"bpe": "sentencepiece", "sentencepiece_model": str(data / "sentencepiece.model")}
    places = {"checkpoint_file": checkpoint.name, "data_name_or_path": str(data.resolve())}
    hub = LinformerRobertaModel.from_pretrained(str(checkpoint.parent), **places, **tokenizer).eval()
    dictionary = hub.task.source_dictionary
    # fairseq's own hub.fill_mask confuses the tokens if </s> is among them
    before, after = map(hub.bpe.encode, SENTENCE.split("<mask>"))
    ids = dictionary.encode_line(f"<s> {before} <mask> {after} </s>", append_eos=False, add_if_not_exist=False)
    with torch.no_grad():
        logits, _ = hub.model(ids.long().unsqueeze(0))
    best = logits[0, ids == hub.task.mask_idx].softmax(dim=-1).topk(5)
    tokens = [dictionary[index].lstrip("\u2581") for index in best.indices[0].tolist()]
    return list(zip(best.values[0].tolist(), tokens, strict=True))
