"""The settings of the stages. Each stands here once, with its default and what its flag needs.

The command line (`cli.py`) and the YAML configurations (`pipeline.py`) both use these classes. Importing this is cheap.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from linformer_fairseq.errors import UsageError
from linformer_fairseq.ranges import POSITIONS, Checked, Range

VOCAB_MULTIPLE = 64  # suits tensor cores and the usual degrees of tensor parallelism
SMALLEST_WITHOUT_BYTES = 64
SMALLEST = 320  # symbols of a vocabulary: a piece for each byte, one for the space, and some letters
CONFIGS = Path(__file__).parent / "configs"
SOURCES = {
    "wikipedia": "MediaWiki XML dumps",
    "doc": "wikiextractor's <doc> files",
    "text": "a document per .txt or .md file, a paragraph per line",
    "books": "the same, with paragraphs separated by empty lines, and .epub",
    "jsonl": "a document per line",
    "parquet": "a document per row; also Arrow files",
    "docstrings": "of installed Python packages (no IN needed)",
    "images": "an image per file or per row of a table, cut to a square; the title is the label",
}
DOCUMENT_ENDS = ("file", "blank", "line")
MATH = ("placeholder", "text", "drop")
REMOVED = ("window", "document")
ORDERS = ("raster", "hilbert")
# Settings of a source that its reader takes, and the sources that have them.
READER_SETTINGS = {
    "text_column": ("jsonl", "parquet"),
    "encoding": ("text", "books", "doc", "jsonl"),
    "document_end": ("text",),
    "math": ("wikipedia",),
    **dict.fromkeys(("size", "image_column", "label_column"), ("images",)),
}

Settings = TypeVar("Settings")


def setting(default: Any, help: str, flag: str = "", **options: Any) -> Any:
    """A field with a flag (`--` and its name unless given), and a `range` if it is a number.

    Other `options` are those of `ArgumentParser.add_argument`.
    """
    return field(default=default, metadata={"flag": flag, "help": help, **options})


def add_flags(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add a flag for each setting of a class."""
    for one in fields(settings):
        if options := {key: value for key, value in one.metadata.items() if key not in ("flag", "range")}:
            if isinstance(one.default, bool | tuple):
                options["default"] = one.default
            elif isinstance(one.default, int | float | str):
                options |= {"type": type(one.default), "default": one.default}
                options["help"] += " (default %(default)s)"
            parser.add_argument(_flag(one), dest=one.name, **options)


def _flag(one: Field[Any]) -> str:
    return one.metadata["flag"] or f"--{one.name.replace('_', '-')}"


def as_changes(words: Sequence[str]) -> list[str]:
    """The arguments of `run`, with each flag of a stage at the end as the setting that it is: `split.valid=0.1`.

    Messages name the flags of the stages. Those of a source are for all sources that have them.
    """
    sections = {"": ReadingConfig, "split.": SplitConfig, "tokenizer.": TokenizerConfig, "binarize.": BinarizeConfig}
    known: dict[str, tuple[str, Any]]
    known = {f"--{name.replace('_', '-')}": (f"sources.*.{name}", None) for name in READER_SETTINGS}
    known |= {_flag(one): (prefix + one.name, one.default) for prefix, kind in sections.items() for one in fields(kind)}
    left: list[str] = []
    changes: list[str] = []
    given = list(words)
    while given:
        word = given.pop(0)
        flag, equals, value = word.partition("=")
        if flag not in known:
            left.append(word)
            continue
        key, default = known[flag]
        if isinstance(default, bool):
            value = str(not default).lower()
        elif isinstance(default, tuple):
            values = [value] if equals else []
            while given and not given[0].startswith("--") and "=" not in given[0]:
                values.append(given.pop(0))
            value = json.dumps(values, ensure_ascii=False)
        elif not equals:
            value = given.pop(0) if given else ""
        changes.append(f"{key}={value}")
    return left + changes


def from_flags(settings: type[Settings], arguments: argparse.Namespace) -> Settings:
    """The settings that were given as flags."""
    return settings(**{one.name: getattr(arguments, one.name) for one in fields(settings)})  # type: ignore[arg-type]


@dataclass
class DownloadConfig(Checked):
    """Where a dump comes from."""

    mirror: str = setting("https://dumps.wikimedia.org", "server with the layout of Wikimedia's", metavar="URL")
    date: str = setting("latest", "date of the dump, YYYYMMDD", metavar="DATE")


@dataclass
class SourceConfig(Checked):
    """One source of documents."""

    source: str = setting(
        MISSING,
        f"{'. '.join(f'{name}: {text}' for name, text in SOURCES.items())}. "
        "Compressed files (.gz .bz2 .xz .zst) and tar archives are read directly",
        required=True,
        choices=SOURCES,
    )
    inputs: list[str] = field(default_factory=list)  # files and folders; * and ? are expanded
    name: str | None = setting(None, "prefix of the names of the files (default: the source)")
    text_column: str | None = setting(
        None, "column of jsonl or parquet, or a.b for b in a (default: text); a list is paragraphs", metavar="NAME"
    )
    encoding: str | None = setting(
        None,
        "of text, books, doc and jsonl, such as cp1251, gb18030, shift_jis or utf-16 (default: utf-8)",
        metavar="E",
    )
    document_end: str | None = setting(
        None, "what ends a document of text: the file (default), each blank line, or each line", choices=DOCUMENT_ENDS
    )
    math: str | None = setting(
        None, "what stands for a formula of wikipedia: a placeholder (default), its source, or nothing", choices=MATH
    )
    size: int | None = setting(
        None, "pixels a side of images (default: 32)", type=int, metavar="N", range=Range(1, 1024)
    )
    image_column: str | None = setting(None, "column of images in a table (default: image)", metavar="NAME")
    label_column: str | None = setting(None, "column of their labels (default: label)", metavar="NAME")


@dataclass
class ReadingConfig(Checked):
    """How all sources are read."""

    on_error: str = setting(
        "stop", "`stop` at input that cannot be read, or `skip` it, counted and listed", choices=("stop", "skip")
    )
    # Some seconds for the slowest stage: a kill costs little, and processes end together.
    file_characters: int = setting(
        8_000_000, "size of a Parquet file, the unit of work of later stages", metavar="N", range=Range()
    )


@dataclass
class DecontaminateConfig(Checked):
    """The benchmarks whose dev and test examples must not be in the corpus."""

    folders: list[str] = setting(
        MISSING, "folders of GLUE, IMDB, … as downloaded", "--benchmarks", nargs="+", required=True, metavar="DIR"
    )
    remove: str = setting(
        "window", "what a document with an example loses: a window around it, or the whole document", choices=REMOVED
    )
    window: int = setting(200, "characters on each side of an example, and the shortest part kept", metavar="N")


@dataclass
class SplitConfig(Checked):
    """Shares of the documents that are not trained on, chosen by the hash of each document."""

    valid: float = setting(0.01, "share of the documents", metavar="F", range=Range(0, 1))
    test: float = setting(0.0, "share of the documents", metavar="F", range=Range(0, 1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.valid + self.test >= 1:
            raise UsageError(f"--valid {self.valid} and --test {self.test}: leave nothing to train on")


@dataclass
class TokenizerConfig(Checked):
    """A vocabulary that is trained on the training documents, or an existing one."""

    vocab_size: int = setting(
        32000,
        "size of the dictionary, special symbols included; a multiple of 64",
        metavar="N",
        range=Range(SMALLEST_WITHOUT_BYTES, 1_000_000),
    )
    model: str = setting("unigram", "kind of sentencepiece model", choices=("unigram", "bpe"))
    user_symbols: tuple[str, ...] = setting(
        (), "symbols that are each one token wherever they stand, such as <b> or [NAME]", nargs="+", metavar="SYMBOL"
    )
    character_coverage: float = setting(
        0.9995,
        "share of the characters, counted as often as they occur, that have a token; 0.98 to 1",
        metavar="F",
        range=Range(0.98, 1),  # the bounds of sentencepiece
    )
    byte_fallback: bool = setting(
        True,
        "make characters without a token unknown (default: bytes)",
        "--no-byte-fallback",
        action="store_false",
    )
    existing: str | None = setting(
        None, "instead of training: a .model, or a folder with encoder.json and vocab.bpe", "--import", metavar="PATH"
    )
    colours: int = setting(
        0, "for images: a palette of so many colours, by k-means; 0 for texts", metavar="N", range=Range(0, 65_000)
    )
    grey_levels: int = setting(
        0, "for images: a palette of so many greys instead; 0 for none", metavar="N", range=Range(0, 256)
    )
    order: str = setting(
        "raster", "of an image's pixels: row by row, or along a Hilbert curve (side a power of two)", choices=ORDERS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.colours and self.grey_levels:
            raise UsageError(f"--colours {self.colours} and --grey-levels {self.grey_levels}: give one of them")
        if self.existing is not None or self.colours or self.grey_levels:
            return
        if self.vocab_size < self.smallest:
            what = "its 256 bytes and letters" if self.byte_fallback else "its letters"
            raise UsageError(f"--vocab-size {self.vocab_size}: must be at least {self.smallest}, for {what}")
        if self.vocab_size % VOCAB_MULTIPLE:
            near = round(self.vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE
            multiple = f"must be a multiple of {VOCAB_MULTIPLE}, for example {near}"
            raise UsageError(f"--vocab-size {self.vocab_size}: {multiple}")

    @property
    def smallest(self) -> int:
        """Symbols of the smallest vocabulary."""
        return SMALLEST if self.byte_fallback else SMALLEST_WITHOUT_BYTES


@dataclass
class BinarizeConfig(Checked):
    """The shape of fairseq's data."""

    max_item_tokens: int = setting(
        510, "longer paragraphs are cut; at most --tokens-per-sample minus 2", metavar="N", range=Range(4, POSITIONS)
    )
    shards: int = setting(1, "folders to join by colons, each an epoch for fairseq", metavar="N", range=Range())


def bundled() -> list[str]:
    """Names of the configurations in `configs/`."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))
