"""fairseq's dictionary without fairseq, whose import takes seconds in every worker.

fairseq numbers its symbols <s> 0, <pad> 1, </s> 2, <unk> 3, then the lines `symbol count` of dict.txt; the task
`masked_lm` appends <mask>.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from data_prep.config import VOCAB_MULTIPLE
from linformer_fairseq.errors import UsageError

DICTIONARY = "dict.txt"
BOS, PAD, EOS, UNK = range(4)
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
FILLER = "madeupword"  # fairseq's name for symbols that only pad a dictionary to a multiple
OVERWRITE = "#fairseq:overwrite"


def read_dictionary(path: Path) -> list[str]:
    """The symbols of a dict.txt in the order of their ids; UsageError for a line that fairseq would refuse."""
    if not path.is_file():
        raise UsageError(f"{path}: missing; make it with `python -m data_prep tokenizer --import {path.parent}`")
    symbols = list(SPECIALS)
    known = set(symbols)
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8; make the dictionary again") from error
    for number, line in enumerate(content.removesuffix("\n").split("\n") if content else [], start=1):
        name, _, count = line.rstrip().removesuffix(OVERWRITE).rstrip().rpartition(" ")
        if not name or not count.removeprefix("-").isdecimal():
            raise UsageError(f"{path}: line {number} is not `symbol count` but {line[:60]!r}; repair it")
        if name in known and not line.rstrip().endswith(OVERWRITE):
            raise UsageError(f"{path}: line {number} lists {name!r} a second time; remove one of the two")
        known.add(name)
        symbols.append(name)
    return symbols if MASK in known else [*symbols, MASK]


def dictionary_text(tokens: Sequence[str], counts: Iterable[int]) -> str:
    """The lines of a dict.txt in the order of `tokens`, padded so that fairseq's dictionary is a multiple of 64."""
    lines = [f"{token} {count}\n" for token, count in zip(tokens, counts, strict=True)]
    size = len(SPECIALS) + len(lines) + 1
    lines += [f"{FILLER}{n:04d} 0\n" for n in range(-size % VOCAB_MULTIPLE)]
    return "".join(lines)
