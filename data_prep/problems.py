"""Input that cannot be read: stop and say where, or leave it out, counted and listed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from linformer_fairseq.errors import UsageError

REMEDY = "; repair or remove it, or leave such input out with --on-error skip"


@dataclass
class Problems:
    """What happens to bad input. Readers report it here and, if that returns, go on behind it.

    Attributes:
        skip: whether to go on (``--on-error skip``) instead of stopping (``--on-error stop``).
        skipped: one line per piece of bad input that was left out.
        left_out: how much was left out because the source is not meant to yield it, by reason, such as redirects.
    """

    skip: bool = False
    skipped: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def report(self, where: str, what: str) -> None:
        """Notes that what stands at ``where`` (file and position) cannot be read because of ``what``.

        Raises:
            UsageError: unless ``skip``.
        """
        if not self.skip:
            raise UsageError(f"{where}: {what}{REMEDY}")
        self.skipped.append(f"{where}: {what}")
