"""Input that cannot be read: stop and say where, or skip it, counted and listed."""

from collections import Counter
from dataclasses import dataclass, field

from linformer_fairseq.errors import UsageError


@dataclass
class ReadErrors:
    """What was not read. Readers report unreadable input here; if `report` returns, they continue after it.

    Attributes:
        skip: whether unreadable input is skipped (`--on-error skip`) or is an error (`--on-error stop`).
        skipped: one line for each piece of input that could not be read.
        left_out: how much was left out because the source is not meant to yield it, by reason, such as redirects.
    """

    skip: bool = False
    skipped: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def report(self, where: str, what: str) -> None:
        """Note that the input at `where` (file and position) cannot be read; raises UsageError unless `skip`."""
        if not self.skip:
            raise UsageError(f"{where}: {what}; repair or remove it, or skip such input with --on-error skip")
        self.skipped.append(f"{where}: {what}")
