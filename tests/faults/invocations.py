"""The table of wrong invocations: for every flag of every command, the values that it must refuse.

A command is described by an invocation that works. From its parser come the flags, and from the kind of each flag what
is wrong for it: no number, numbers out of its range, nothing, a missing file, a folder instead of a file, and so on.
What no rule finds, such as two flags that exclude each other, is listed with the command.
"""

from __future__ import annotations

import argparse
import runpy
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from linformer_fairseq.paths import USER_DIR

WHOLE = ("x", "1.5", "nan", "-1", "0", "1000000000000")
REAL = ("x", "nan", "inf", "-1")
TRAIN = (
    "{w}/data --task streaming_masked_lm --criterion fused_masked_lm --arch linformer_roberta_tiny --encoder-layers 1 "
    "--max-positions 64 --tokens-per-sample 64 --projected-length 16 --optimizer fused_adamw --lr 1e-3 --batch-size 4 "
    f"--max-update 1 --no-save --disable-validation --cpu --save-dir out --user-dir {shlex.quote(str(USER_DIR))}"
)


@dataclass(frozen=True)
class Command:
    """A command, an invocation of it that works, and what is known of its flags."""

    words: str
    valid: str
    more: str = ""  # further flags that it takes, with valid values
    wrong: tuple[str, ...] = ()  # flags to add to the valid ones, which do not go together
    fine: tuple[str, ...] = ()  # `--flag value`: right for this flag, though not for most of its kind
    runs: bool = True  # whether the valid invocation can be run here, in seconds
    zero: bool = False  # whether 0 is right for most of its whole numbers
    files: bool = True  # whether it looks at its files before it writes anything


@dataclass(frozen=True)
class Invocation:
    """One wrong command line; the message must name one of `named`, or anything if it is empty."""

    command: str
    argv: tuple[str, ...]
    named: tuple[str, ...] = ()


class _Found(BaseException):
    """Carries the parser of a command out of it."""


def parser_of(words: str, run: Callable[[list[str]], object]) -> argparse.ArgumentParser:
    """The parser of a command, taken when it begins to parse; of fairseq-train, that of the sections that train."""
    if words == "fairseq-train":
        return fairseq_parser()
    if words.endswith(".py"):
        script = argparse.ArgumentParser(add_help=False)
        runpy.run_path(str(Path(__file__).parents[2] / words))["MEASUREMENT"].flags(script)
        return script

    def stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Found(parser)

    try:
        with patch.object(argparse.ArgumentParser, "parse_known_args", stop):
            run([*words.split(), "--help"])
    except _Found as found:
        parser: argparse.ArgumentParser = found.args[0]
    for word in words.split():
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                parser = action.choices[word]
    return parser


def fairseq_parser() -> argparse.ArgumentParser:
    """The flags of this project's model, task, criterion and optimizer, and of the sections of every run."""
    from fairseq.dataclass.configs import CheckpointConfig, DatasetConfig, OptimizationConfig
    from fairseq.dataclass.utils import gen_parser_from_dataclass

    from linformer_fairseq.criterions.distillation import DistillationConfig
    from linformer_fairseq.models.config import LinformerRobertaConfig
    from linformer_fairseq.optim.fused_adamw import FusedAdamWConfig
    from linformer_fairseq.tasks.streaming_masked_lm import StreamingMaskedLMConfig

    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    own = (LinformerRobertaConfig, StreamingMaskedLMConfig, DistillationConfig, FusedAdamWConfig)
    for config in (OptimizationConfig, DatasetConfig, CheckpointConfig, *own):
        gen_parser_from_dataclass(parser, config())
    return parser


def invocations(command: Command, parser: argparse.ArgumentParser, world: Path) -> Iterator[Invocation]:
    """Every wrong invocation of a command."""
    given = command.valid.replace("{w}", str(world)).split()
    positionals = [action for action in parser._actions if not action.option_strings]
    first = next((place for place, word in enumerate(given) if word.startswith("--")), len(given))

    def wrong(argv: list[str], *named: str) -> Invocation:
        return Invocation(command.words, (*command.words.split(), *argv), named)

    yield wrong([*given, "--no-such-flag"], "--no-such-flag")
    for line in command.wrong:
        words = line.replace("{w}", str(world)).split()
        keys = [key for word in words for key, _, value in [word.partition("=")] for key in (word, key, value)]
        named = {part for key in keys for part in (key, key.lstrip("-"), *key.split("."))}
        named |= {name.replace("_", "-") for name in named}
        yield wrong([*_without(given, words[0]), *words], *named)
    for place, action in enumerate(positionals[:first]):
        if action.required:
            yield wrong(given[:place] + given[first:], str(action.metavar), action.dest)
        for value in _paths(given[place], world) if command.files else ():
            yield wrong([*given[:place], value, *given[place + 1 :]], value, Path(value).parent.name)
        if action.choices:
            yield wrong([*given[:place], "no-such", *given[place + 1 :]], "no-such")
    valid = {**_values(given), **_values(command.more.replace("{w}", str(world)).split())}
    for action in parser._actions:
        if not action.option_strings or action.dest in ("help", "version"):
            continue
        flag = action.option_strings[-1]
        rest = _without(given, flag)
        if action.nargs == 0:
            yield wrong([*rest, f"{flag}=x"], flag)
            continue
        if action.nargs not in ("?", "*"):
            yield wrong([*rest, flag], flag)
        if action.required:
            yield wrong(rest, flag)
        for value in _wrong_values(action, valid.get(flag), world):
            right = (
                value in (str(action.default), f"{action.default}".removesuffix(".0"))
                or (command.zero and value == "0")
                or f"{flag} {value}" in command.fine
            )
            if not right and (command.files or "/" not in value):
                yield wrong(
                    [*rest, flag, value],
                    *action.option_strings,
                    *([value, Path(value).parent.name] if "/" in value else []),
                )


def _wrong_values(action: argparse.Action, valid: str | None, world: Path) -> Iterator[str]:
    if action.choices:
        yield from ("no-such", "")
    elif (kind := _kind(action)) is not None:
        yield from WHOLE if kind is int else REAL
    elif valid is not None and "/" in valid or action.type is Path:
        yield from _paths(valid or "", world)


def _kind(action: argparse.Action) -> type | None:
    """`int` or `float` if the flag takes such a number."""
    for kind, text in ((int, "7"), (float, "0.7")):
        try:
            if action.type is not None and action.type is not Path and type(action.type(text)) is kind:
                return kind
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            pass
    return None


def _paths(valid: str, world: Path) -> Iterator[str]:
    """Of an input: missing, and a folder for a file or a file for a folder; of an output: below a file."""
    if not valid.startswith(str(world)):
        if valid.startswith("out"):
            yield f"{world}/garbage/{valid}"
            yield f"{world}/{'nothing' if '.' in valid else 'garbage'}"
        return
    yield f"{world}/no-such{Path(valid).suffix}"
    yield f"{world}/{'garbage' if Path(valid).is_dir() else 'nothing'}"
    yield f"{world}/empty"
    yield f"{world}/garbage"


def _without(argv: list[str], flag: str) -> list[str]:
    if flag not in argv:
        return argv
    start = argv.index(flag)
    end = next((i for i in range(start + 1, len(argv)) if argv[i].startswith("--")), len(argv))
    return argv[:start] + argv[end:]


def _values(argv: list[str]) -> dict[str, str]:
    return {word: argv[i + 1] for i, word in enumerate(argv[:-1]) if word.startswith("--")}
