"""LoRA (Hu et al. 2021) beside full fine-tuning: SST-2's dev accuracy of one Linformer, trained in both ways.

    linformer convert from-bert all-MiniLM-L6-v2 minilm.pt --projection adaptive --projected-length 128
    linformer convert to-hf minilm.pt minilm
    python recipes/measure/lora.py minilm --glue-dir GLUE --out RUN

GLUE holds SST-2/train.tsv and dev.tsv. Both ways get the same rows of train.tsv, updates and number of learning rates.
A rate is chosen on a part of these rows that is held out, with one seed; then each seed trains on all of them, and is
scored on dev.tsv, which serves for nothing else.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import PreTrainedTokenizerFast

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.glue import find_task, read_labelled
from linformer_fairseq.finetuning.heads import Feature, Steps, predict
from linformer_fairseq.finetuning.train import Run
from linformer_fairseq.hf.modeling_linformer import LinformerForSequenceClassification
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.measuring.study import Cells, Measurement, Options, comparison, flag, plain
from linformer_fairseq.scores import score_logits
from linformer_fairseq.tables import Table

FULL, LORA = "full fine-tuning", "LoRA"
RATES = {FULL: (3e-5, 1e-4, 3e-4), LORA: (3e-4, 1e-3, 3e-3)}
LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
HELD_OUT, DEV = "accuracy, held out", "accuracy, dev"
Data = tuple[str, list[Feature], list[Feature]]  # name of the score; rows to train on, and to score


def measure(options: Options, cells: Cells) -> None:
    torch.set_num_threads(options.threads)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.model)
    tables = read_labelled(options.glue_dir, find_task("SST-2"))
    train, dev = (features(tables[name], tokenizer) for name in ("train", "dev"))
    if not options.held_out < options.rows <= len(train):
        raise UsageError(f"--rows {options.rows}: must lie between --held-out {options.held_out} and {len(train)}")
    drawn = [train[i] for i in np.random.default_rng(0).permutation(len(train))[: options.rows]]
    tuning, final = (HELD_OUT, drawn[options.held_out :], drawn[: options.held_out]), (DEV, drawn, dev)
    tried = {f"{way}, lr {lr:g}": (way, lr) for way, rates in RATES.items() for lr in rates}
    cells.run({name: partial(tune, options, tuning, *how) for name, how in tried.items()})
    found = {how: cells.finished()[name]["result"][HELD_OUT] for name, how in tried.items()}
    best = {way: max(rates, key=lambda lr: found[way, lr]) for way, rates in RATES.items()}
    for seed in range(options.rounds):
        work = {way: partial(tune, options, final, way, lr, seed) for way, lr in best.items()}
        cells.run({f"{way}, round {seed}": one for way, one in work.items()})


def features(table: Table, tokenizer: Any) -> list[Feature]:
    """Ids and class of each row."""
    texts = (tokenizer(text)["input_ids"] for (text,) in table.texts)
    return [{"input_ids": ids, "labels": int(label)} for ids, label in zip(texts, table.labels or (), strict=True)]


def tune(options: Options, data: Data, way: str, lr: float, seed: int = 0) -> dict[str, float]:
    """Train and score; `seed` draws the head, the adapters, dropout and the order of the rows."""
    name, rows, scored = data
    torch.manual_seed(seed)
    model: Any = LinformerForSequenceClassification.from_pretrained(options.model, num_labels=2)
    if way == LORA:
        adapters = peft.LoraConfig("SEQ_CLS", r=options.rank, lora_alpha=2 * options.rank, target_modules=LAYERS)
        model = peft.get_peft_model(model, adapters)
    about = "SST-2", Path(way), options.model, None
    run = Run(*about, {}, {}, Labels(("0", "1"), 1), ("accuracy",), seed, lr, options.batch_size, options.epochs)
    steps = Steps(model, rows, run)
    start = time.process_time()
    for epoch in range(options.epochs):
        steps.epoch(epoch)
    took = time.process_time() - start
    logits = np.array(predict(model, scored))
    accuracy = score_logits("accuracy", np.array([row["labels"] for row in scored]), logits)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {name: accuracy, "learning rate": lr, "trained parameters": trained, "processor seconds": took}


ABOUT = """AdamW, betas 0.9 and 0.98, weight decay 0.1, linear warm-up of 6 % and decay. LoRA is in the four layers of
attention and both of the feed-forward part, without dropout; the head is trained whole in both. Rows with a learning
rate in their name: one seed, trained on the rows that are not held out. The others: medians over seeds (range)."""
FLAGS = [
    flag("model", Path, "folder written by `linformer convert to-hf`"),
    flag("--glue-dir", Path, "with SST-2/train.tsv and dev.tsv"),
    flag("--rows", 3000, "of train.tsv, drawn once", quick=300),
    flag("--held-out", 600, "of these, to choose rates", quick=100),
    flag("--rank", 8, "of LoRA, with alpha twice as large"),
    *plain(epochs=(2, 1), batch_size=32, rounds=(3, 1), threads=1),
]
MEASUREMENT = Measurement(__file__, __doc__, FLAGS, measure, comparison("LoRA on SST-2", ABOUT))

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
