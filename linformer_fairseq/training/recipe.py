"""A recipe: one YAML file that holds every setting of a training run, in the form of fairseq's own configs.

The same file works in two ways:

    python recipes/recipe.py recipes/pretrain/tiny_n512_k128.yaml DATA --save-dir RUN [-- MORE FAIRSEQ FLAGS]
    fairseq-hydra-train --config-dir recipes/pretrain --config-name tiny_n512_k128 task.data=DATA …

The first turns the settings into flags of `fairseq-train`, prints that command and runs it. Every key and
value is checked against the flags that fairseq and this project really have, before anything starts.
"""

# ruff: noqa: E402 (fairseq is told what not to say before it is imported)

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast

# It asks everybody to install a package that only speech needs.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_REGISTRY
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from linformer_fairseq.errors import UsageError
from linformer_fairseq.paths import RECIPES, USER_DIR
from linformer_fairseq.plugin import register

# Sections that every fairseq run has, and those whose `_name` chooses a class, with the flag that names it.
FIXED = ("common", "checkpoint", "dataset", "optimization", "distributed_training", "ema")
NAMED = {"task": "--task", "model": "--arch"} | {name: f"--{name.replace('_', '-')}" for name in REGISTRIES}
HYDRA = "hydra"  # where fairseq-hydra-train works and logs; means nothing to fairseq-train


def register_project() -> None:
    """Makes this project's architectures known to fairseq, as `--user-dir` does."""
    register()


def fairseq_train_argv(
    recipe: Path, data: Path | str, save_dir: Path, overrides: Mapping[str, Any] | None = None
) -> list[str]:
    """The `fairseq-train` command of a recipe.

    Args:
        recipe: YAML file with fairseq's sections (common, task, model, optimizer, …).
        data: folder of binarised text, or several joined by colons.
        save_dir: where fairseq writes checkpoints, and where it resumes from.
        overrides: settings that differ from the file, such as `{"optimization.max_update": 100}`.

    Raises:
        UsageError: an unknown section, key or name, or a value that its flag does not take.
    """
    register_project()
    try:
        config = OmegaConf.load(recipe)
        if not isinstance(config, DictConfig):
            raise UsageError(f"{recipe}: not a mapping of sections")
        places = {"common.user_dir": str(USER_DIR), "checkpoint.save_dir": str(save_dir)}
        for key, value in {**(overrides or {}), **places}.items():
            OmegaConf.update(config, key, value)
        sections = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise UsageError(f"{recipe}: {error}") from error
    argv = ["fairseq-train", str(data)]
    for section, settings in sections.items():
        if section == HYDRA:
            continue
        if section in FIXED:
            argv += _flags(f"{recipe}: {section}", _fixed_parser(section), settings)
        elif section in NAMED:
            argv += _named_flags(f"{recipe}: {section}", section, settings)
        else:
            known = ", ".join((*FIXED, *NAMED))
            raise UsageError(f"{recipe}: unknown section {section}; the sections are {known}")
    return argv


def _named_flags(where: str, section: str, settings: Any) -> list[str]:
    settings = {"_name": settings} if isinstance(settings, str) else dict(settings or {})
    name = settings.pop("_name", None)
    if section == "task":
        settings.pop("data", None)  # comes from the command line
        classes = TASK_REGISTRY
    elif section == "model":
        classes = ARCH_MODEL_REGISTRY
    else:
        classes = REGISTRIES[section]["registry"]
    if name not in classes:
        raise UsageError(f"{where}._name: {name} is unknown; fairseq has {', '.join(sorted(classes))}")
    return [NAMED[section], name, *_flags(where, _class_parser(classes[name]), settings)]


def _fixed_parser(section: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    gen_parser_from_dataclass(parser, FairseqConfig.__dataclass_fields__[section].type())
    return parser


def _class_parser(cls: Any) -> argparse.ArgumentParser:
    """The flags of a task, model, criterion, …, which fairseq declares in one of two ways."""
    parser = argparse.ArgumentParser(add_help=False)
    if hasattr(cls, "add_args"):
        cls.add_args(parser)
    elif is_dataclass(getattr(cls, "__dataclass", None)):
        gen_parser_from_dataclass(parser, getattr(cls, "__dataclass")())
    return parser


def _flags(where: str, parser: argparse.ArgumentParser, settings: Mapping[str, Any] | None) -> Iterator[str]:
    actions = {action.dest: action for action in parser._actions}
    for key, value in (settings or {}).items():
        if key not in actions:
            raise UsageError(f"{where}.{key}: unknown key; this section has {', '.join(sorted(actions))}")
        yield from _flag(f"{where}.{key}", actions[key], value)


def _flag(where: str, action: argparse.Action, value: Any) -> Iterator[str]:
    flag = action.option_strings[0]
    if value is None:
        if action.default not in (None, argparse.SUPPRESS):
            raise UsageError(f"{where}: null is no value for {flag}; leave the key out for its default")
    elif action.nargs == 0:  # a switch, which on the command line can only be flipped
        if not isinstance(value, bool):
            raise UsageError(f"{where}: {value!r} is not true or false")
        if value is action.const:
            yield flag
    else:
        text = ",".join(map(str, value)) if _is_number_list(value) else str(value)
        try:
            converted = action.type(text) if callable(action.type) else text
        except (ValueError, TypeError, SyntaxError, argparse.ArgumentTypeError) as error:
            raise UsageError(f"{where}: {text!r} is no value for {flag} ({error})") from error
        if action.choices is not None and converted not in action.choices:
            raise UsageError(f"{where}: {text!r} is not one of {', '.join(map(str, action.choices))}")
        yield from (flag, text)


def _is_number_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, int | float) for item in value)


def find_recipe(name: str) -> Path:
    """The file of a recipe that is given as a path, or as the name of one that comes along.

    Raises:
        UsageError: there is none.
    """
    for path in (Path(name), RECIPES / "pretrain" / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in (RECIPES / "pretrain").glob("*.yaml")))
    raise UsageError(f"RECIPE={name} is neither a file nor one of {known}")
