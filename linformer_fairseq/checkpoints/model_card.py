"""README.md of an exported folder: what the model is and how to use it, and what its maker has still to fill in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_TEMPLATE = Path(__file__).with_name("model_card.md")
_NOT_SHOWN = ("file", "digest")


def model_card(name: str, about: Mapping[str, Any], length: int, labels: Sequence[str] | None) -> str:
    """The text of the card.

    Args:
        name: of the folder.
        about: as `describe` gives it.
        length: longest input in tokens.
        labels: names of the classes of its classification head; None without one.
    """
    rows = {key: f"{value:,}" if isinstance(value, int) else str(value) for key, value in about.items()}
    if labels:
        rows["classes"] = ", ".join(labels)
    return _TEMPLATE.read_text(encoding="utf-8").format(
        name=name,
        table="\n".join(f"| {key} | {value} |" for key, value in rows.items() if key not in _NOT_SHOWN),
        task="text-classification" if labels else "fill-mask",
        pipeline="classify" if labels else "fill",
        sentence="A sentence." if labels else "A sentence with a <mask> in it.",
        length=f"{length:,}",
    )
