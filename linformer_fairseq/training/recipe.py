"""A recipe: one YAML file that holds every setting of a training run, in the form of fairseq's own configs.

`linformer train` turns the settings into flags of `fairseq-train`, and `fairseq-hydra-train` reads the same file. Every
key and value is checked against the flags of fairseq and this project before anything starts.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.settings import read_yaml
from linformer_fairseq.paths import RECIPES, USER_DIR
from linformer_fairseq.plugin import register

# Sections that every fairseq run has. Of the others, `_name` chooses a class; `--section` names it, or for these:
_FIXED = ("common", "checkpoint", "dataset", "optimization", "distributed_training", "ema")
_FLAG_OF = {"model": "--arch"}
PRECISIONS = {"--fp16", "--bf16", "--amp", "--memory-efficient-fp16", "--memory-efficient-bf16"}
_HYDRA = "hydra"  # where fairseq-hydra-train works and logs; means nothing to fairseq-train


def find_recipe(name: str) -> Path:
    """The file of a recipe that is given by its path, or by its name in `recipes/pretrain`; UsageError if none is."""
    known = {path.stem: path for path in sorted((RECIPES / "pretrain").glob("*.yaml"))}
    path = Path(name) if Path(name).is_file() else known.get(name)
    if path is None:
        raise UsageError(f"RECIPE={name} is neither a file nor one of {', '.join(known)}")
    return path


def fairseq_train_argv(
    recipe: Path, data: Path | str, save_dir: Path, overrides: Mapping[str, Any] | None = None, more: Sequence[str] = ()
) -> list[str]:
    """The `fairseq-train` command of a recipe.

    Args:
        recipe: YAML file with fairseq's sections (common, task, model, optimizer, …).
        data: folder of binarised text, or several joined by colons.
        save_dir: for checkpoints.
        overrides: settings that differ from the file, such as `{"optimization.max_update": 100}`.
        more: flags that a person has added, which win over all settings; a precision replaces that of the recipe, and
            another optimizer, task, … takes of the recipe's settings those that it has as well.

    UsageError for an unknown section, key or name, a value that its flag does not take, or a foreign `--user-dir`.
    """
    register()
    from fairseq.dataclass.configs import FairseqConfig

    classes_of = registries()
    argv = ["fairseq-train", str(data)]
    for section, given in _sections(recipe, {**(overrides or {}), "checkpoint.save_dir": str(save_dir)}).items():
        where, classes = f"{recipe}: {section}", classes_of.get(section)
        if section == _HYDRA:
            continue
        if section not in _FIXED and classes is None:
            known = ", ".join((*_FIXED, *classes_of))
            raise UsageError(f"{recipe}: unknown section {section}; the sections are {known}")
        if isinstance(given, str) and classes is not None:
            given = {"_name": given}
        settings = {} if given is None else given
        if not isinstance(settings, Mapping):
            raise UsageError(f"{where} is {given!r}, not a mapping of settings")
        if classes is None:
            argv += _flags(where, _actions(FairseqConfig.__dataclass_fields__[section].type), settings)
            continue
        name = settings.get("_name")
        if not isinstance(name, str) or name not in classes:
            raise UsageError(f"{where}._name: {name} is unknown; fairseq has {', '.join(sorted(classes))}")
        from_here = {"_name", "data"} if section == "task" else {"_name"}  # the command line has the data
        others = {key: value for key, value in settings.items() if key not in from_here}
        flag = _FLAG_OF.get(section, f"--{section.replace('_', '-')}")
        flags = _flags(where, _actions(classes[name]), others)
        if (chosen := _last(flag, more)) in classes:
            shared = _actions(classes[chosen])
            flags = _flags(where, shared, {key: value for key, value in others.items() if key in shared})
        argv += [flag, name, *flags]
    _refuse_foreign_user_dir(more)
    if not PRECISIONS.isdisjoint(more):
        argv = [flag for flag in argv if flag not in PRECISIONS]
    return [*argv, *more]


def _refuse_foreign_user_dir(flags: Sequence[str]) -> None:
    """fairseq ends with a traceback where nothing is, and with a list of all other models where ours are missing."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--user-dir", type=Path, default=USER_DIR)
    given: Path = parser.parse_known_args(flags)[0].user_dir
    package = given / "__init__.py"
    if not (package.is_file() and "linformer_fairseq" in package.read_text(encoding="utf-8", errors="replace")):
        lacks = "has no __init__.py that imports linformer_fairseq"
        raise UsageError(f"--user-dir {given}: {lacks}; leave the flag out, as this command gives {USER_DIR}")


def check_flags(argv: Sequence[str]) -> None:
    """End the program as fairseq-train would, with what is wrong, if it does not take these flags."""
    from fairseq import options

    options.parse_args_and_arch(options.get_training_parser(), list(argv[1:]))


def _sections(recipe: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config = read_yaml(recipe)
    if not isinstance(config, DictConfig):
        raise UsageError(f"{recipe}: not a mapping of sections")
    try:
        for key, value in {"common.user_dir": str(USER_DIR), **overrides}.items():
            OmegaConf.update(config, key, value)
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise UsageError(f"{recipe}: {error}") from error


def registries() -> dict[str, Mapping[str, Any]]:
    """By section: the classes that its `_name` chooses from."""
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_REGISTRY

    others = {section: registry["registry"] for section, registry in REGISTRIES.items()}
    return {"task": TASK_REGISTRY, "model": ARCH_MODEL_REGISTRY, **others}


def _last(flag: str, more: Sequence[str]) -> Any:
    """The value of a flag among those that a person has added, or None."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, dest="value", nargs="?")
    return parser.parse_known_args(more)[0].value


def _actions(declaring: Any) -> dict[str, argparse.Action]:
    """The flags of a section's dataclass, or of a task, model, …, which declares them in two ways, by their keys."""
    from fairseq.dataclass.utils import gen_parser_from_dataclass

    parser = argparse.ArgumentParser(add_help=False)
    dataclass = getattr(declaring, "__dataclass", declaring)
    if hasattr(declaring, "add_args"):
        declaring.add_args(parser)
    elif is_dataclass(dataclass):
        gen_parser_from_dataclass(parser, cast(Any, dataclass)())
    return {action.dest: action for action in parser._actions}


def _flags(where: str, actions: Mapping[str, argparse.Action], settings: Mapping[str, Any]) -> list[str]:
    """The settings of a section as words of the command line; UsageError for an unknown one."""
    flags: list[str] = []
    for key, value in settings.items():
        if key not in actions:
            raise UsageError(f"{where}.{key}: unknown key; this section has {', '.join(sorted(actions))}")
        flags += _flag(f"{where}.{key}", actions[key], value)
    return flags


def _flag(where: str, action: argparse.Action, value: Any) -> list[str]:
    """A setting as the words of its flag; UsageError for a value that it does not take."""
    from linformer_fairseq.compat.checkpoints import EVALUATED, is_literal

    flag = action.option_strings[0]
    if value is None:
        if action.default in (None, argparse.SUPPRESS):
            return []
        raise UsageError(f"{where}: null is not a value for {flag}; leave the key out for its default")
    if action.nargs == 0:  # a switch, which on the command line can only be flipped
        if not isinstance(value, bool):
            raise UsageError(f"{where}: {value!r} is not true or false")
        return [flag] if value is action.const else []
    numbers = isinstance(value, list) and all(isinstance(item, int | float) for item in value)
    text = ",".join(map(str, value)) if numbers else str(value)
    # fairseq passes the text of some settings to `eval`, among them every one of a type of its own.
    evaluated = action.type not in (None, int, float, str) or action.dest in EVALUATED
    if evaluated and not (is_literal(text) or re.fullmatch(r"[\w.,+ -]*", text)):
        raise UsageError(f"{where}: {text!r} is not a plain value; write numbers, or a list of them")
    try:
        converted = action.type(text) if callable(action.type) else text
    except Exception as error:  # fairseq's types evaluate the text
        raise UsageError(f"{where}: {text!r} is not a value for {flag} ({error})") from error
    if action.choices is not None and converted not in action.choices:
        raise UsageError(f"{where}: {text!r} is not one of {', '.join(map(str, action.choices))}")
    return [flag, text]
