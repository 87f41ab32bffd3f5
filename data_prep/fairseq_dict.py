"""fairseq's dictionary without fairseq, whose import takes seconds in every worker.

fairseq numbers its symbols <s> 0, <pad> 1, </s> 2, <unk> 3, then the lines `symbol count` of dict.txt; the task
`masked_lm` appends <mask>.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from linformer_fairseq.errors import UsageError

DICTIONARY = "dict.txt"
BOS, PAD, EOS, UNK = range(4)
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
VOCAB_MULTIPLE = 64  # suits tensor cores and the usual degrees of tensor parallelism
FILLER = "madeupword"  # fairseq's name for symbols that only pad a dictionary to a multiple
OVERWRITE = "#fairseq:overwrite"

_REMEDY = "give the dictionary that was made with this model, or delete it and import the model alone"


@dataclass(frozen=True)
class SymbolTable:
    """The dictionary of the task `masked_lm`.

    Attributes:
        path: of dict.txt.
        symbols: names in the order of their ids, `<mask>` included.
        index: name -> id.
        lines: name -> its line in dict.txt, counted from 1.
    """

    path: Path
    symbols: Sequence[str]
    index: Mapping[str, int]
    lines: Mapping[str, int]

    @classmethod
    def load(cls, path: Path) -> SymbolTable:
        """Read dict.txt as fairseq does.

        Raises:
            UsageError: the file is missing, or has a line that fairseq would refuse.
        """
        if not path.is_file():
            raise UsageError(f"{path}: missing; make it with `python -m data_prep tokenizer --import {path.parent}`")
        symbols = list(SPECIALS)
        index = {name: i for i, name in enumerate(symbols)}
        lines: dict[str, int] = {}
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: byte {error.start} is not UTF-8; make the dictionary again") from error
        for number, line in enumerate(content.removesuffix("\n").split("\n") if content else [], start=1):
            name, _, count = line.rstrip().removesuffix(OVERWRITE).rstrip().rpartition(" ")
            if not name or not count.removeprefix("-").isdecimal():
                raise UsageError(f"{path}: line {number} is not `symbol count` but {line[:60]!r}; repair it")
            if name in index and not line.rstrip().endswith(OVERWRITE):
                raise UsageError(f"{path}: line {number} lists {name!r} a second time; remove one of the two")
            index[name] = len(symbols)
            lines[name] = number
            symbols.append(name)
        if MASK not in index:
            index[MASK] = len(symbols)
            symbols.append(MASK)
        return cls(path, symbols, index, lines)

    def check(self, produced: Sequence[str], further: Iterable[str], model: Path) -> None:
        """Compare the dictionary with a model.

        Args:
            produced: every token that encoding can produce, in the model's order.
            further: other names that may be listed.
            model: the file of the model.

        Raises:
            UsageError: names the first line of dict.txt that does not match the model.
        """
        known = {*produced, *further, *SPECIALS, MASK}
        for name, number in self.lines.items():
            if name not in known and not name.startswith(FILLER):
                raise UsageError(f"{self.path}: line {number}, {name!r}, is no token of {model.name}; {_REMEDY}")
        for position, name in enumerate(produced):
            if name not in self.index:
                raise UsageError(
                    f"{self.path}: ends at line {len(self.lines)} without {name!r}, "
                    f"token {position} of {model.name}; {_REMEDY}"
                )


def dictionary_text(tokens: Sequence[str], counts: Iterable[int]) -> str:
    """The lines of a dict.txt in the order of `tokens`, padded so that fairseq's dictionary is a multiple of 64."""
    lines = [f"{token} {count}\n" for token, count in zip(tokens, counts, strict=True)]
    size = len(SPECIALS) + len(lines) + 1
    lines += [f"{FILLER}{n:04d} 0\n" for n in range(-size % VOCAB_MULTIPLE)]
    return "".join(lines)
