"""Ours beside the other efficient encoders of transformers: time and memory by length, and a task at equal minutes.

    python recipes/reproduce/efficient_encoders.py --out RUN --report REPORT        half an hour of one core
    python recipes/reproduce/efficient_encoders.py --quick --out RUN                seconds

All have the same layers and channels and random weights at first; RoBERTa's exact attention (SDPA) is the reference.
The task: a text of --n tokens begins with a question for each of 8 keys, and tells further on, between other tokens,
the value of each key --repeats times, a token for a key with its value: once is to find one token among all, often is
to sum up. The questions are tokens that attend to all others in Longformer and BigBird, too. Each encoder trains for
the same processor time with each learning rate.
"""

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from linformer_fairseq.errors import UsageError
from linformer_fairseq.measuring import contestants as by
from linformer_fairseq.measuring import study
from linformer_fairseq.measuring.layers import give_back_memory, growth
from linformer_fairseq.measuring.plots import Panel, plot_lines
from linformer_fairseq.measuring.study import Cells, Options, Results, flag, markdown, plain, spread
from linformer_fairseq.ranges import real

KEYS = 8  # no more than a block of BigBird, whose first one attends to all tokens
VALUES = 2
FIRST = 4  # ids before are special; then come questions, keys with values, and the others
OTHERS = FIRST + KEYS * (1 + VALUES)
HELD_OUT = 32  # texts of each kind to choose the learning rate by, and as many for the score
WARM_UP = 0.05  # share of the time


def measure(options: Options, cells: Cells) -> None:
    if any(n % 64 for n in (options.n, *options.lengths)):
        raise UsageError("--n and --lengths: must be multiples of 64 tokens, as Nystromformer and Reformer need them")
    if any(channels % options.heads for channels in (options.channels, options.task_channels)):
        raise UsageError(f"--heads {options.heads}: --channels and --task-channels must be multiples of it")
    if max(options.repeats) > (most := options.n // KEYS - 1):
        raise UsageError(f"--repeats {max(options.repeats)}: --n {options.n} has room for {most}; ask for fewer")
    task = models(options, options.n, options.task_channels)
    if gone := [name for name in by.EFFICIENT if name not in task]:
        print(f"this version of transformers has no {', '.join(gone)}: left out", file=sys.stderr)
    sizes = {n: models(options, n, options.channels) for n in options.lengths}
    work = {f"{name}, n = {n}": study.in_a_process(cost, make, n) for n in sizes for name, make in sizes[n].items()}
    cells.turns(work, options.rounds)
    rates = [(f"{name}, lr {rate:g}", make, rate) for rate in options.lr for name, make in task.items()]
    cells.run({name: study.in_a_process(learn, options, make, rate) for name, make, rate in rates})


def models(options: Options, n: int, channels: int) -> dict[str, by.Make]:
    """What makes each contestant, of texts of n tokens; the reference first."""
    sizes = by.Sizes(n, options.layers, channels, options.heads, min(options.k, n))
    usual = by.usual(sizes, sorted({0, options.local_window}))
    first: dict[str, by.Make] = {by.ROBERTA: usual.pop(by.ROBERTA), f"linear, k = {sizes.k}": sizes.ours}
    del usual[by.EXACT]
    return first | usual | by.efficient(sizes, max(1, options.local_window))


def cost(make: by.Make, n: int) -> dict[str, float]:
    """Tokens per second of processor time in reading and in training on a text of n tokens, MB at the peak."""
    torch.set_num_threads(1)
    model, found = make(), dict[str, float]()
    ids = torch.randint(FIRST, by.VOCABULARY, (1, n), generator=torch.Generator().manual_seed(1))

    def read() -> None:
        with torch.inference_mode():
            model.eval()(ids, attention_mask=torch.ones_like(ids))

    def train() -> None:
        model.train()(ids, attention_mask=torch.ones_like(ids))[0].sum().backward()
        model.zero_grad(set_to_none=False)

    steps = {"reading": read, "training": train}
    for name, step in steps.items():
        step()
        found[f"{name}, tokens/s"] = n / study.seconds(step, time.process_time)
    for name, step in steps.items():
        give_back_memory()
        found[f"{name}, MB"] = growth(step) / 1e6
    return found | {"parameters": parameters(model)}


def parameters(model: nn.Module) -> int:
    """Of the layers: without embeddings, and without poolers, which nothing here uses."""
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if "embed" not in name and "pooler" not in name)


class Answering(nn.Module):
    """An encoder with a linear layer that turns the features of questions into scores of values."""

    encoder: Any

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.scores = encoder, nn.LazyLinear(VALUES)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, N) -> (B, KEYS, VALUES)"""
        options = {"attention_mask": torch.ones_like(ids)}
        if self.encoder.config.model_type == "longformer":
            options["global_attention_mask"] = (torch.arange(ids.size(1)) < KEYS).long().expand_as(ids)
        scores: Tensor = self.scores(self.encoder(ids, **options)[0][:, :KEYS])
        return scores


def texts(count: int, n: int, repeats: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Texts (B, N) and the values that answer their questions (B, KEYS)."""
    keys = torch.rand(count, KEYS, generator=chance).argsort(1)
    values = torch.randint(VALUES, (count, KEYS), generator=chance)
    ids = torch.randint(OTHERS, by.VOCABULARY, (count, n), generator=chance)
    ids[:, :KEYS] = FIRST + keys
    places = KEYS + torch.rand(count, n - KEYS, generator=chance).argsort(1)[:, : KEYS * repeats]
    return ids.scatter(1, places, (FIRST + KEYS + keys * VALUES + values).repeat(1, repeats)), values


def learn(options: Options, make: by.Make, rate: float) -> dict[str, float]:
    """Train for the processor time given; right answers in per cent, texts trained on, documents read per second."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model, chance = Answering(make()), torch.Generator().manual_seed(1)
    fresh = torch.Generator().manual_seed(2)
    held_out = [texts(2 * HELD_OUT, options.n, repeats, fresh) for repeats in options.repeats]
    for module in model.encoder.modules():
        if isinstance(module, nn.Linear):  # the usual deviation of 0.02 is for many more channels
            nn.init.xavier_uniform_(module.weight)
    model(held_out[0][0][:1])
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    low, high = math.log(min(options.repeats)), math.log(max(options.repeats))
    start, seen = time.process_time(), 0
    while (share := (time.process_time() - start) / options.seconds) < 1:
        optimizer.param_groups[0]["lr"] = rate * min(1, share / WARM_UP) * (1 - share)
        repeats = round(math.exp(low + (high - low) * float(torch.rand(1, generator=chance))))
        ids, values = texts(options.batch_size, options.n, repeats, chance)
        optimizer.zero_grad()
        loss: Any = functional.cross_entropy(model.train()(ids).flatten(0, 1), values.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += len(ids)
    start = time.process_time()
    with torch.inference_mode():
        given = [[model.eval()(one).argmax(-1) for one in torch.split(ids, options.batch_size)] for ids, _ in held_out]
    took = time.process_time() - start
    right = [(torch.cat(own) == values).float().mean(1) for own, (_, values) in zip(given, held_out, strict=True)]
    found = {
        f"told {n} times, %": 100 * float(r[HELD_OUT:].mean()) for n, r in zip(options.repeats, right, strict=True)
    }
    tuning, score = (100 * float(part.mean()) for part in torch.split(torch.stack(right), HELD_OUT, dim=1))
    found |= {"tuning, %": tuning, "right, %": score, "documents/s": 2 * HELD_OUT * len(right) / took}
    return found | {"texts trained on": seen, "lr": rate, "parameters": parameters(model.encoder)}


def best(results: Results) -> dict[str, dict[str, float]]:
    """Of each encoder, the training with the learning rate that is best on the texts to choose it by."""
    trained = [(*name.split(", lr "), cell) for name, cell in results["cells"].items() if ", lr " in name]
    ranked = sorted(trained, key=lambda one: -one[-1]["tuning, %"])
    return {encoder: next(cell for name, _, cell in ranked if name == encoder) for encoder, *_ in trained}


ABOUT = """{layers} layers, {heads} heads, one thread. linear and adaptive: ours, with k slots, and W neighbours on each
side attended to exactly; Longformer and ModernBERT have as many neighbours. Parameters are
without embeddings, those of linear with E."""
TASK = """Each text of {n:,} tokens asks for {keys} values, of {values}. Each encoder of {task_channels} channels trains
for {seconds:g} s of one core with each of the learning rates {rates}; lr is the one that is best on other texts.
Guesses are right in {chance:g} %. The right ones in all are the mean of those by how often a text tells a value."""


def table(results: Results) -> str:
    """Time and memory by length, and the scores of the task."""
    cells, settings = results["cells"], results["settings"]
    text = study.heading("The other efficient encoders beside ours", results, ABOUT.format(**settings))
    costs = [(*name.rsplit(", ", 2)[:2], cell) for name, cell in cells.items() if ", n = " in name]
    encoders, lengths = (list(dict.fromkeys(names)) for names in zip(*(names for *names, _ in costs), strict=True))
    for figure in dict.fromkeys(key for *_, cell in costs for key in cell):
        rows = []
        for encoder in encoders:
            rounds = ([one[figure] for one in study.rounds_of(cells, f"{encoder}, {n}")] for n in lengths)
            rows.append([encoder, *(spread(found if len(set(found)) > 1 else found[:1]) for found in rounds)])
        title = f"{figure[0].upper()}{figure[1:]}, {settings['channels']} channels"
        text += f"\n## {title}\n\n{markdown(['', *lengths], rows)}"
    rates = ", ".join(dict.fromkeys(name.partition(", lr ")[2] for name in cells if ", lr " in name))
    about = TASK.format(**settings, keys=KEYS, values=VALUES, rates=rates, chance=100 / VALUES)
    columns = [column for column in next(iter(best(results).values())) if column != "tuning, %"]
    rows = [[name, *(spread([found[c]]) for c in columns)] for name, found in best(results).items()]
    shown = markdown(["", *columns], rows)
    return f"{text}\n## The task\n\n{about}\n\n{shown}\n![Right answers over documents per second](task.png)\n"


def plot(results: Results, path: Path) -> None:
    """Right answers over documents read per second."""
    points = {name: [(found["documents/s"], found["right, %"])] for name, found in best(results).items()}
    plot_lines(path, "right answers, %", [Panel("documents per second", points, scale="log")], lambda _: "o", "linear")


FLAGS = [
    flag("--lengths", [1024, 4096, 16384], quick=[64], cells=True),
    *plain(rounds=1, layers=(2, 1), channels=(256, 16), heads=(4, 2), k=(256, 16)),
    flag("--local-window", 64, "neighbours on each side", quick=4, least=0),
    flag("--n", 1024, "tokens of the task's texts", quick=256),
    flag("--repeats", [1, 8, 64], "how often texts tell a value", quick=[1, 2]),
    *plain(task_channels=(64, 16), batch_size=4),
    flag("--lr", [1e-3, 3e-3], "the best counts", quick=[1e-3], cells=True),
    flag("--seconds", 60.0, "of a training, of one processor core", quick=0.1, type=real(0.01, 1e6)),
]
MEASUREMENT = study.Measurement(__file__, __doc__, FLAGS, measure, table, {"task.png": plot})

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
