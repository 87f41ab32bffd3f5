"""Writes the pages that repeat what the code says: `python docs/generate.py`. A test compares them with the code.

reference/commands.md   every --help
reference/flags.md      what this project adds to fairseq-train
reference/settings.md   the settings of data preparation
benchmarks/gpu/h100.md  what recipes/measure/gpu_check.py found on an H100, from its JSON
images/*.svg            the help of `linformer` as a picture of a terminal
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from linformer_fairseq.io.files import write_text
from linformer_fairseq.measuring.study import markdown

DOCS = Path(__file__).resolve().parent
SUBCOMMANDS = {
    "": "demo train plan report distill encode choose-k glue env",
    " convert": "inspect from-official from-roberta from-bert extend to-hf from-hf to-safetensors",
    " finetune": "train tokens answers pairs predict",
    " launch": "pretrain finetune prepare status logs cancel",
    " prepare": "run download extract clean dedup decontaminate split tokenizer binarize inspect",
}
HELPS = ["linformer", *(f"linformer{of} {name}" for of, names in SUBCOMMANDS.items() for name in names.split())]
HELPS.insert(HELPS.index("linformer prepare run"), "linformer prepare")


def help_of(command: str) -> str:
    """What a command prints with --help, at a width of 100 columns."""
    words = [sys.executable, "-m", "linformer_fairseq", *command.split()[1:], "--help"]
    environment = {**os.environ, "COLUMNS": "100", "LC_ALL": "C.UTF-8"}
    ran = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    return ran.stdout.rstrip() + "\n"


COMMANDS_PAGE = """\
# Commands

`linformer prepare` is the same as `python -m data_prep`. CUDA: run on one H100 ([what](../benchmarks/gpu/h100.md));
V100, NCCL, fine-tuning and encoding: CUDA: not yet run.
"""


def commands_page() -> str:
    """All of `HELPS`."""
    parts = [COMMANDS_PAGE]
    parts += [f"## {name}\n\n```text\n{help_of(name)}```\n" for name in HELPS]
    return "\n".join(parts)


def flags_page() -> str:
    """The flags of the model, the streaming task, the criterion and the optimizer."""
    from linformer_fairseq.plugin import register

    register()
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    from linformer_fairseq.models.architectures import ARCHITECTURES
    from linformer_fairseq.models.config import LinformerRobertaConfig

    archs = ", ".join(f"`{name}`" for name in sorted(ARCHITECTURES))
    parts = [
        "# Flags of fairseq-train\n",
        "What `--user-dir linformer_fairseq` adds; fairseq's own flags are in `fairseq-train --help`.\n",
        f"`--arch` is one of {archs}. CUDA: run on one H100 ([what](../benchmarks/gpu/h100.md)).\n",
        "## The model, `--arch linformer_roberta_…`\n",
        table(LinformerRobertaConfig, flags=True),
        "## `--task streaming_masked_lm`\n",
        table(TASK_DATACLASS_REGISTRY["streaming_masked_lm"], flags=True),
        "## `--task text_pairs`\n",
        "`data`, `--seed` and `--tokens-per-sample` are those of `masked_lm`; its other flags have no effect.\n",
    ]
    names = [("criterion", name) for name in ("fused_masked_lm", "distillation", "contrastive")]
    names += [("optimizer", "fused_adamw"), ("optimizer", "muon"), ("lr-scheduler", "warmup_stable_decay")]
    for kind, name in names:
        config = REGISTRIES[kind.replace("-", "_")]["dataclass_registry"].get(name)
        parts.append(f"## `--{kind} {name}`\n")
        parts.append(table(config, flags=True) if config is not None and fields(config) else "No flags of its own.\n")
    return "\n".join(parts)


def settings_page() -> str:
    """The sections of a configuration of data preparation."""
    from data_prep.pipeline import PipelineConfig

    about = "Of a YAML file for `linformer prepare run`, or `KEY=VALUE` behind it."
    return f"# Settings of data preparation\n\n{about}\n\n{table(PipelineConfig, flags=False)}"


def gpu_page() -> str:
    """What one H100 made of the project."""
    found = json.loads((DOCS / "benchmarks/gpu/h100.json").read_text(encoding="utf-8"))
    versions, layers = found["versions"], found["table3"]
    kinds, dtypes = ("exact", "linear", "adaptive", "adaptive, W = 64"), ("float32", "bfloat16", "float16")
    rows = []
    for dtype, n in product(dtypes, sorted({int(name.split()[2][:-1]) for name in layers})):
        cells = [layers[f"n = {n}, {dtype}, {kind}"] for kind in kinds]
        speeds = [f"{cells[0]['ms'] / cell['ms']:.2f}" for cell in cells[1:]]
        memory = [f"{cell['GB']:.1f}" for cell in cells]
        rows.append([dtype, f"{n:,}", f"{cells[0]['ms']:.1f}", *speeds, *memory])
    header = ["", "n", "exact, ms", *kinds[1:], *(f"{kind}, GB" for kind in kinds)]
    low = {name: error for name, error in found["types"].items() if "max-pool" not in name}
    errors = {dtype: f"{max(e for name, e in low.items() if dtype in name):.2f}" for dtype in ("bfloat16", " float16")}
    runs = found["resuming"]
    resumed = [
        [
            mode,
            *(f"{found['training'][f'{mode}, {pair}']:.4f}" for pair in ("plain", "fused")),
            *(f"{value:.0e}" if value else "0" for value in both.values()),
        ]
        for mode, both in runs.items()
    ]
    speed = [
        [f"`{name}`", *(f"{row[key]:.{digits}f}" for key, digits in SPEED.items())]
        for name, row in found["speed"].items()
    ]
    return GPU_PAGE.format(
        gpu=versions["gpus"][0]["name"],
        torch=versions["torch"],
        layers=markdown(header, rows, 2),
        resumed=markdown(["", "loss: adam, masked_lm", "fused pair", "resumed", "repeated"], resumed),
        speed=markdown(["", *(key.replace("tokens/s", "tokens/s of the step") for key in SPEED)], speed),
        overflows=found["overflow"]["overflows"],
        saving=found["saving"]["seconds"],
        graphs=found["compiling"]["graphs"],
        compiled=found["compiling"]["speed"],
        bfloat16=errors["bfloat16"],
        float16=errors[" float16"],
    )


SPEED = {"tokens/s": 0, "ms": 1, "share of the peak": 2, "optimizer ms": 1, "GB": 2}
GPU_PAGE = """\
# One H100

`python recipes/measure/gpu_check.py --out check.json` on one {gpu}, torch {torch}, Python 3.12 ([all
figures](h100.json)). It found one thing that CPUs hide, which is mended: the adaptive projection had no
backward pass in bfloat16 on CUDA. The layers below are of the first repair; the present one, which reads the
inputs fewer times, ran in all types and was not timed. The step `memory`, several GPUs, NCCL, V100 and
fine-tuning: CUDA: not yet run.

## One layer of base size

k = 256, forward and backward without dropout, 65,536 tokens in each step. Exact attention is PyTorch's; beside
it, how many times as fast ours is, and memory beyond parameters and input. Medians of five steps in one
process.

{layers}
In float32 adaptive blocks cost 1 to 3 % over fixed ones, in 16 bit a fifth. A window of 64 costs twice the
layer in 16 bit: each block of 64 queries has its own copy of the slots, and exact attention is faster up to
4,096 tokens.

## Training in each precision

200 updates of the tiny model; then the largest difference of a parameter when a run was stopped by a signal and
resumed, and when it was only repeated. In float32 a GPU adds up in no fixed order, so that two equal runs
differ as much.

{resumed}
With a first scale of 2^30 the loss overflows in {overflows} updates, which are skipped. Largest error of loss
and gradients of a small model, relative to the largest value, against float32: {float16} in float16, {bfloat16}
in bfloat16, in all sharings and kinds but max-pool, where rounding chooses another token of a block. A forward
and backward pass never makes the host wait (one warning was counted, which is PyTorch's that the mode is a
prototype; the script no longer counts it). In 16 bit attention runs in cuDNN's flash kernels, in float32 in the
memory-efficient ones.

## Base models

The batches of the recipes for V100 of 16 GB, in float16: the encoder's step, and FusedAdamW's.

{speed}
So small a batch leaves an H100 waiting for Python: in bfloat16 the kernels take 15.6 of 27 ms, and with four
times the batch the share of the peak is 0.28. Memory is that of the step before the optimizer has moments, for
which 4.45 and 4.40 GB are computed by the rules of `linformer plan`. A checkpoint of the base model in the background
stops training for {saving:.2f} s. `--compile`: {graphs} graphs for three lengths, {compiled:.2f} times the
speed (tiny layers).
"""


def table(config: Any, flags: bool) -> str:
    """A dataclass as a table of names, defaults and help; nested ones with dotted names."""
    rows = ["| flag | default | meaning |" if flags else "| setting | default | meaning |", "|---|---|---|"]
    for name, default, text in _settings(config, ""):
        shown = f"--{name.replace('_', '-')}" if flags else name
        rows.append(f"| `{shown}` | {default} | {text} |")
    return "\n".join(rows) + "\n"


def _settings(config: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    for field in fields(config):
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        text = field.metadata.get("help") or _comment(config, field.name)
        text = " ".join(str(text).split()).replace("|", "\\|")
        if is_dataclass(default) and not isinstance(default, type):
            yield from _settings(type(default), f"{prefix}{field.name}.")
        elif not str(field.name).startswith("_"):
            missing = default is MISSING or str(default) == "???" or str(default).startswith("${")
            shown = "" if missing or default is None else f"`{getattr(default, 'value', default)}`"
            yield f"{prefix}{field.name}", shown, text


def _comment(config: type, name: str) -> str:
    """What stands behind a field as a comment, or on the lines before it."""
    above: list[str] = []
    for line in inspect.getsource(config).splitlines():
        text = line.strip()
        if text.startswith("#"):
            above.append(text.lstrip("# "))
        elif text.startswith(f"{name}:"):
            return text.partition("  # ")[2] or " ".join(above)
        else:
            above = []
    return ""


def picture(command: str) -> str:
    """A terminal with a command and what it prints, as SVG."""
    console = Console(record=True, width=100, file=open(os.devnull, "w"))
    console.print(Text(f"$ {command} --help"))
    console.print(Text(help_of(command)))
    return console.export_svg(title=command, unique_id="terminal")


def pages() -> dict[Path, str]:
    """Content by path below docs/."""
    return {
        Path("reference/commands.md"): commands_page(),
        Path("reference/flags.md"): flags_page(),
        Path("reference/settings.md"): settings_page(),
        Path("benchmarks/gpu/h100.md"): gpu_page(),
        Path("images/linformer-help.svg"): picture("linformer"),
        Path("images/linformer-convert-help.svg"): picture("linformer convert"),
    }


if __name__ == "__main__":
    for path, content in pages().items():
        write_text(DOCS / path, content)
        print(path)
