"""Fine-tuning of heads that fairseq does not have, with transformers: a tag for each token, or an answer's place.

`linformer_fairseq/hf` has the models; PyTorch alone trains them. What is written is a folder of `linformer convert
to-hf`, whose model transformers loads.
"""

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from linformer_fairseq.checkpoints.checkpoint import encoder_config, read
from linformer_fairseq.checkpoints.names import HEADS
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.data import length_bucketed_order
from linformer_fairseq.finetuning.train import Result, Run, finished, read_result
from linformer_fairseq.inference.engine import BATCH_TOKENS, Compute, check_compute
from linformer_fairseq.inference.sequences import like_length
from linformer_fairseq.io.files import write_text
from linformer_fairseq.io.records import begun
from linformer_fairseq.optim.by_layer import by_layer
from linformer_fairseq.scores import Array
from linformer_fairseq.training.hardware import low_precision

IGNORED = -100  # a label that does not count
FOLDER = "model"
Feature = dict[str, Any]  # `input_ids`, `row`, targets, and what the task needs to read the scores
Scores = dict[str, float]
_TARGETS = ("labels", "start_positions", "end_positions")


class HeadTask(Protocol):
    """What a head is trained for; `splits` are `train` and those to score."""

    model: str  # class in hf/modeling_linformer.py
    suffix: str  # of the file of predictions

    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def splits(self) -> Mapping[str, Sequence[Any]]: ...
    def settings(self) -> dict[str, Any]: ...
    def features(self, split: str, tokenizer: Any, longest: int) -> list[Feature]: ...
    def predictions(self, split: str, features: Sequence[Feature], logits: Sequence[Array]) -> Any: ...
    def scores(self, split: str, found: Any) -> Scores: ...
    def constant(self, split: str) -> Any: ...
    def text(self, split: str, found: Any) -> str: ...


def finetune_head(run: Run, task: HeadTask) -> Result:
    """Train, score, and write the folder `model`, predictions of each split, and `result.json`, as `train.finetune`.

    The epoch is chosen by the first metric on the first split after `train`. A run that was stopped starts again.
    """
    if (done := read_result(run)) is not None:
        return done
    from linformer_fairseq.checkpoints.hf_tokenizer import build_tokenizer  # these need the extra `hf`
    from linformer_fairseq.checkpoints.huggingface import to_hf
    from linformer_fairseq.hf import modeling_linformer

    begun(run.out / "finetune.json", run.settings())
    source = read(run.checkpoint)
    state = {name: value for name, value in source.state.items() if not name.startswith(HEADS)}
    data, longest = run.data or source.data, encoder_config(source).max_positions
    folder = run.out / FOLDER
    to_hf(source.converted(state=state), data, folder, force=True)
    torch.manual_seed(run.seed)
    kind = getattr(modeling_linformer, task.model)
    model = kind.from_pretrained(folder, **task.settings()).float()
    if not run.pretrained:
        model = kind(model.config)
    model.to(check_compute(Compute()))
    tokenizer = build_tokenizer(data, longest)
    features = {split: task.features(split, tokenizer, longest) for split in task.splits}
    first, *_ = evaluations = [split for split in task.splits if split != "train"]

    def guesses(split: str) -> Any:
        return task.predictions(split, features[split], predict(model, features[split]))

    kept, value, since = {}, -1.0, 0
    steps = Steps(model, features["train"], run)
    for epoch in range(run.epochs):
        steps.epoch(epoch)
        scores = task.scores(first, guesses(first))
        tqdm.write(f"{run.out}: epoch {epoch + 1}, {', '.join(f'{name} {x:.2f}' for name, x in scores.items())}")
        since += 1
        if scores[run.metrics[0]] > value:
            kept, value, since = copy.deepcopy(model.state_dict()), scores[run.metrics[0]], 0
        if run.patience and since >= run.patience:
            break
    model.load_state_dict(kept)
    model.save_pretrained(folder)
    names, reached, constant = [f"{FOLDER}/model.safetensors"], {}, {}
    for split in evaluations:
        names.append(f"{split}{task.suffix}")
        found = guesses(split)
        write_text(run.out / names[-1], task.text(split, found))
        reached[split] = task.scores(split, found)
        constant[split] = task.scores(split, task.constant(split))
    rows = {split: len(rows) for split, rows in task.splits.items()}
    return finished(run, names, scores=reached, constant=constant, rows=rows)


class Steps:
    """The updates of a run: AdamW with the settings of recipes/finetune, linear warm-up and decay."""

    def __init__(self, model: nn.Module, features: Sequence[Feature], run: Run) -> None:
        self.model, self.features, self.run = model, features, run
        self.total = -(-len(features) // run.batch_size) * run.epochs
        warm_up = max(1, int(self.total * run.warm_up))
        groups = by_layer(model.named_parameters(), run.lr, run.layer_lr_decay)
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda n: min((n + 1) / warm_up, (self.total - n) / max(1, self.total - warm_up))
        )

    def epoch(self, number: int) -> None:
        """Train on every row once, in length-bucketed batches in random order."""
        self.model.train()
        lengths, size = [len(feature["input_ids"]) for feature in self.features], self.run.batch_size
        order = length_bucketed_order(lengths, size, self.run.seed + number)
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        random.Random(self.run.seed + number).shuffle(batches)
        for batch in tqdm(batches, desc=f"{self.run.out.name}, epoch {number + 1}", unit=" updates", leave=False):
            with _autocast(self.model):
                loss = self.model(**_inputs(self.model, [self.features[i] for i in batch], targets=True)).loss
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()


@torch.inference_mode()
def predict(model: nn.Module, features: Sequence[Feature]) -> list[Array]:
    """The scores (N, C) of each feature's N tokens: of tags, or of starts and ends of answers.

    UsageError if they are not finite.
    """
    model.eval()
    found: list[Any] = [None] * len(features)
    lengths = [len(feature["input_ids"]) for feature in features]
    tokens = BATCH_TOKENS.get(next(model.parameters()).device.type, 16384)
    for batch in like_length(lengths, tokens):
        with _autocast(model):
            out = model(**_inputs(model, [features[i] for i in batch]))
        logits = out.logits if "logits" in out else torch.stack([out.start_logits, out.end_logits], -1)
        if not logits.isfinite().all():
            raise UsageError("what the model gives are no numbers any more; use a smaller --lr")
        for i, scores in zip(batch, logits.float().cpu().numpy(), strict=True):
            found[i] = scores[: lengths[i]]
    return found


def _inputs(model: Any, features: Sequence[Feature], targets: bool = False) -> dict[str, Tensor]:
    def padded(name: str, value: int) -> Tensor:
        return pad_sequence([torch.tensor(feature[name]) for feature in features], True, value)

    ids = padded("input_ids", -1)
    inputs = {"input_ids": ids.masked_fill(ids < 0, model.config.pad_token_id), "attention_mask": ids.ge(0).long()}
    for name in _TARGETS if targets else ():
        if name in features[0]:
            one_a_row = not isinstance(features[0][name], list)
            inputs[name] = torch.tensor([row[name] for row in features]) if one_a_row else padded(name, IGNORED)
    return {name: value.to(model.device) for name, value in inputs.items()}


def _autocast(model: Any) -> torch.autocast:
    """bfloat16 on a GPU that computes in it, else float32. CUDA: not yet run."""
    low = model.device.type == "cuda" and low_precision(model.device) == torch.bfloat16
    return torch.autocast(model.device.type, torch.bfloat16, enabled=low)
