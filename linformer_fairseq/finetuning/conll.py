"""A tag for each word: files of CoNLL's columns or JSON lines, and the F1 of entities.

As in `conlleval` and seqeval, an entity counts if its kind, its first and its last word are right.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.heads import IGNORED, Feature, Scores
from linformer_fairseq.scores import Array
from linformer_fairseq.tables import json_rows, read_lines

Sentence = tuple[list[str], list[str]]  # words and their tags
METRICS = ("entity-f1", "entity-precision", "entity-recall", "accuracy")


def read_sentences(path: Path, word: str | None = None, tag: str | None = None) -> list[Sentence]:
    """The sentences of a file; UsageError for one that is missing, empty, or has a word without a tag.

    `word` and `tag` name lists in JSON lines (default: tokens, tags), or number the columns, from 1 (default: the first
    and the last). In columns, sentences end at an empty line; lines of -DOCSTART- and comments (`# `) are left out.
    """
    if path.suffix == ".jsonl":
        found = list(_json_sentences(path, word or "tokens", tag or "tags"))
    else:
        for column in filter(None, (word, tag)):
            if not column.isdigit():
                raise UsageError(f"column {column}: columns of CoNLL have numbers, from 1; or name a .jsonl file")
        found = list(_sentences(path, int(word or 1) - 1, int(tag or 0) - 1))
    if not found:
        raise UsageError(f"{path}: has no sentences")
    return found


def _json_sentences(path: Path, *names: str) -> Iterator[Sentence]:
    for number, row in enumerate(json_rows(path, names), start=1):
        words, tags = ([str(item) for item in row[name]] if isinstance(row[name], list) else [] for name in names)
        if not words or len(words) != len(tags):
            raise UsageError(f"{path}: row {number} has {len(words)} {names[0]} and {len(tags)} {names[1]}")
        yield words, tags


def _sentences(path: Path, word: int, tag: int) -> Iterator[Sentence]:
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate(chain(read_lines(path), [""]), start=1):
        columns = line.split()
        if columns and not line.startswith(("-DOCSTART-", "# ")):
            if len(columns) < 2 or max(word, tag) >= len(columns):
                flags = "two are needed, and --word-column and --tag-column must be among them"
                raise UsageError(f"{path}: line {number} has {len(columns)} columns; {flags}")
            words.append(columns[word])
            tags.append(columns[tag])
        elif not columns and words:
            yield words, tags
            words, tags = [], []


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Kind, first and last word of each entity, in the schemes IOB1, IOB2 and IOBES."""
    found, begin, before, kind_before = set(), 0, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        prefix, kind = prefix[:1], kind or prefix[1:]
        if kind != kind_before or before in tuple("ESO") or prefix in tuple("BSO"):  # not inside the same entity
            if before != "O":
                found.add((kind_before, begin, i - 1))
            begin = i
        before, kind_before = prefix, kind
    return found


def entity_scores(wanted: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> Scores:
    """`METRICS` in percent; entities are counted over all sentences."""
    pairs = [(entities(tags), entities(guesses)) for tags, guesses in zip(wanted, found, strict=True)]
    right = sum(len(tags & guesses) for tags, guesses in pairs)
    there, guessed = sum(len(tags) for tags, _ in pairs), sum(len(guesses) for _, guesses in pairs)
    parts = 2 * right / max(there + guessed, 1), right / max(guessed, 1), right / max(there, 1)
    same = [a == b for tags, guesses in zip(wanted, found, strict=True) for a, b in zip(tags, guesses, strict=True)]
    return {name: 100 * value for name, value in zip(METRICS, (*parts, sum(same) / len(same)), strict=True)}


@dataclass(frozen=True)
class Tagging:
    """A tag for the first token of each word; see `heads.HeadTask`."""

    splits: Mapping[str, Sequence[Sentence]]
    tags: tuple[str, ...]

    model = "LinformerForTokenClassification"
    suffix = ".conll"

    def settings(self) -> dict[str, Any]:
        """Names of the tags for the model's configuration."""
        return {"id2label": dict(enumerate(self.tags)), "label2id": {tag: i for i, tag in enumerate(self.tags)}}

    def features(self, split: str, tokenizer: Any, longest: int) -> list[Feature]:
        """The sentences' tokens, of a long one in several pieces, each word in one."""
        found = []
        ids = {tag: i for i, tag in enumerate(self.tags)}
        for row, (words, tags) in enumerate(self.splits[split]):
            spaced = [word if i == 0 else f" {word}" for i, word in enumerate(words)]
            how = {"is_split_into_words": True, "truncation": True, "return_overflowing_tokens": True}
            out = tokenizer(spaced, max_length=longest, **how)
            last = None
            for piece, tokens in enumerate(out["input_ids"]):
                labels, places = [], []
                for word in out.word_ids(piece):
                    first = word is not None and word != last
                    last = last if word is None else word
                    labels.append(ids[tags[word]] if first else IGNORED)
                    places.append(word if first else -1)
                found.append({"input_ids": tokens, "labels": labels, "row": row, "words": places})
        return found

    def predictions(self, split: str, features: Sequence[Feature], logits: Sequence[Array]) -> list[list[str]]:
        """The tags of each sentence; of a word without a token, the first of all tags."""
        found = [[self.tags[0]] * len(words) for words, _ in self.splits[split]]
        for feature, scores in zip(features, logits, strict=True):
            for word, tag in zip(feature["words"], scores.argmax(1), strict=True):
                if word >= 0:
                    found[feature["row"]][word] = self.tags[tag]
        return found

    def scores(self, split: str, found: Sequence[Sequence[str]]) -> Scores:
        """The `metrics`, see `entity_scores`."""
        scores = entity_scores([tags for _, tags in self.splits[split]], found)
        return {name: scores[name] for name in self.metrics}

    @property
    def metrics(self) -> tuple[str, ...]:
        """`METRICS`; for tags without entities, such as parts of speech, accuracy alone."""
        return METRICS if all(tag == "O" or tag[1:2] == "-" for tag in self.tags) else ("accuracy",)

    def constant(self, split: str) -> list[list[str]]:
        """The most frequent tag of training, for every word."""
        ((tag, _),) = Counter(tag for _, tags in self.splits["train"] for tag in tags).most_common(1)
        return [[tag] * len(words) for words, _ in self.splits[split]]

    def text(self, split: str, found: Sequence[Sequence[str]]) -> str:
        """Words, tags and predicted tags in columns, as `conlleval` reads them."""
        sentences = zip(self.splits[split], found, strict=True)
        rows = (zip(*sentence, guesses, strict=True) for sentence, guesses in sentences)
        return "\n".join("".join(f"{' '.join(columns)}\n" for columns in sentence) for sentence in rows)


def tags_of(splits: Mapping[str, Sequence[Sentence]]) -> tuple[str, ...]:
    """The tags of training, O first; UsageError for others elsewhere, or only one."""
    tags = sorted({tag for _, found in splits["train"] for tag in found}, key=lambda tag: (tag != "O", tag))
    for name, sentences in splits.items():
        if other := {tag for _, found in sentences for tag in found} - set(tags):
            raise UsageError(f"--{name}: the tag {min(other)} is not one of those of --train: {', '.join(tags[:20])}")
    if len(tags) < 2:
        raise UsageError(f"--train: all words have the tag {tags[0]}; two tags are needed")
    return tuple(tags)
