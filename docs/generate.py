"""Writes the pages that repeat what the code says: `python docs/generate.py`. A test compares them with the code.

reference/commands.md   every --help
reference/flags.md      what this project adds to fairseq-train
reference/settings.md   the settings of data preparation
images/*.svg            the help of `linformer` as a picture of a terminal
"""

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from linformer_fairseq.io.files import write_text

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
    return "\n".join([COMMANDS_PAGE, *(f"## {name}\n\n```text\n{help_of(name)}```\n" for name in HELPS)])


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
        own = table(config, flags=True) if config is not None and fields(config) else "No flags of its own.\n"
        parts += [f"## `--{kind} {name}`\n", own]
    return "\n".join(parts)


def settings_page() -> str:
    """The sections of a configuration of data preparation."""
    from data_prep.pipeline import PipelineConfig

    about = "Of a YAML file for `linformer prepare run`, or `KEY=VALUE` behind it."
    return f"# Settings of data preparation\n\n{about}\n\n{table(PipelineConfig, flags=False)}"


def table(config: Any, flags: bool) -> str:
    """A dataclass as a table of names, defaults and help; nested ones with dotted names."""
    rows = ["| flag | default | meaning |" if flags else "| setting | default | meaning |", "|---|---|---|"]
    for name, default, text in _settings(config):
        shown = f"--{name.replace('_', '-')}" if flags else name
        rows.append(f"| `{shown}` | {default} | {text} |")
    return "\n".join(rows) + "\n"


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for field in fields(config):
        default = field.default if field.default_factory is MISSING else field.default_factory()
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
        Path("images/linformer-help.svg"): picture("linformer"),
        Path("images/linformer-convert-help.svg"): picture("linformer convert"),
    }


if __name__ == "__main__":
    for path, content in pages().items():
        write_text(DOCS / path, content)
        print(path)
