"""Numbers in and out of their ranges."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass, field

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.ranges import Checked, Range, real, whole


@pytest.mark.parametrize(
    ("text", "why"), [("x", "not a whole number"), ("1.5", "not a whole number"), ("0", "at least 1")]
)
def test_a_flag_refuses_what_is_no_number_of_its_range(text: str, why: str) -> None:
    assert whole(1, 9)("9") == 9
    with pytest.raises(ArgumentTypeError, match=why):
        whole(1, 9)(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "1"])
def test_both_ends_may_be_outside(text: str) -> None:
    assert real(0, 1, inside=True)("0.5") == 0.5
    with pytest.raises(ArgumentTypeError, match=f"{text}: must be above 0 and below 1"):
        real(0, 1, inside=True)(text)


@dataclass
class Settings(Checked):
    share: float = field(default=0.5, metadata={"flag": "", "range": Range(0, 1)})
    many: tuple[float, ...] = (0.1, 0.2)
    kind: str | None = field(default=None, metadata={"flag": "--sort", "choices": ("a", "b")})


def test_settings_are_checked_wherever_they_come_from() -> None:
    Settings(share=1, many=(), kind="b")
    for given, why in (
        ({"share": float("nan")}, "--share nan: must be at least 0 and at most 1"),
        ({"many": (0.1, -1)}, "many -1: must be at least 0"),
        ({"kind": "c"}, "--sort c: must be one of a, b"),
    ):
        with pytest.raises(UsageError, match=f"^{why}"):
            Settings(**given)
