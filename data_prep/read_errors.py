"""Input that cannot be read: stop and say where, or skip it, counted and listed."""

from collections import Counter
from dataclasses import dataclass, field

from linformer_fairseq.errors import UsageError


@dataclass
class ReadErrors:
    """What was not read. Readers report unreadable input here; if `report` returns, they continue after it."""

    skip: bool = False  # unreadable input, as --on-error skip says, rather than stop
    skipped: list[str] = field(default_factory=list)  # a line for each piece of input that could not be read
    left_out: Counter[str] = field(default_factory=Counter)  # by reason, such as redirects: not meant to be read

    def report(self, where: str, what: str) -> None:
        """Note that the input at `where` (file and position) cannot be read; raises UsageError unless `skip`."""
        if not self.skip:
            raise UsageError(f"{where}: {what}; repair or remove it, or skip such input with --on-error skip")
        self.skipped.append(f"{where}: {what}")
