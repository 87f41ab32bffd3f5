"""The numbers that a setting takes: one rule for the flags of every command and for the settings of data preparation.

fairseq's settings have theirs in `training/preflight.py`, those of the encoder in `layers/config.py`.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar

from linformer_fairseq.errors import UsageError

Number = TypeVar("Number", int, float)
MOST = 2**31 - 1
PROCESSES = 1024  # of one command
ROWS = 2**16  # of a batch: more than any machine holds
TOKENS = 2**24  # likewise
POSITIONS = 2**20  # of a model


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, or only those between them; nan is in no range."""

    least: float = 1
    most: float = MOST
    inside: bool = False

    def refusal(self, value: float) -> str:
        """Why a number is refused; empty if it is not."""
        if self.inside:
            return "" if self.least < value < self.most else f"must be above {self.least:,} and below {self.most:,}"
        return "" if self.least <= value <= self.most else f"must be at least {self.least:,} and at most {self.most:,}"


def whole(least: int = 1, most: int = MOST) -> Callable[[str], int]:
    """The `type` of a flag that takes a whole number in a range."""
    return partial(_number, int, Range(least, most), "a whole number")


def real(least: float, most: float, inside: bool = False) -> Callable[[str], float]:
    """The `type` of a flag that takes a number in a range."""
    return partial(_number, float, Range(least, most, inside), "a number")


def _number(kind: type[Number], allowed: Range, what: str, text: str) -> Number:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
    if refusal := allowed.refusal(value):
        raise argparse.ArgumentTypeError(f"{text}: {refusal}")
    return value


class Checked:
    """A base of dataclasses whose numbers must lie in a range: the `range` in a field's metadata, or else at least 0.

    Values must be among the `choices`, if there are any. Creating one raises a UsageError that names the `flag` in the
    metadata (by default the field's name), or the field.
    """

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            given = getattr(self, one.name)
            allowed = one.metadata.get("range", Range(0))
            choices = one.metadata.get("choices")
            for value in given if isinstance(given, tuple | list) else [given]:
                refusal = allowed.refusal(value) if isinstance(value, int | float) else ""
                if choices and value is not None and value not in choices:
                    refusal = f"must be one of {', '.join(choices)}"
                if refusal:
                    flag = "flag" in one.metadata and f"--{one.name.replace('_', '-')}"
                    raise UsageError(f"{one.metadata.get('flag') or flag or one.name} {value}: {refusal}")
