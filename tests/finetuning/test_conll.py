"""A tag for each word."""

from __future__ import annotations

from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.conll import Tagging, entities, entity_scores, read_sentences, tags_of

COLUMNS = "-DOCSTART- -X- O O\n\n# a comment\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n"


def test_columns_and_json_lines_are_the_same_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(COLUMNS)
    (tmp_path / "a.jsonl").write_text(
        '{"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}\n{"tokens": ["Peter"], "tags": ["B-PER"]}\n'
    )
    found = [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter"], ["B-PER"])]
    assert read_sentences(tmp_path / "a.conll") == read_sentences(tmp_path / "a.jsonl") == found
    assert read_sentences(tmp_path / "a.conll", tag="2")[1] == (["Peter"], ["NNP"])
    assert tags_of({"train": found}) == ("O", "B-ORG", "B-PER")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "EU\n", "a.conll: line 1 has 1 columns; two are needed, and --word-column"),
        ("a.conll", "\n\n", "a.conll: has no sentences"),
        ("a.jsonl", '{"tokens": ["EU"], "tags": []}\n', "a.jsonl: row 1 has 1 tokens and 0 tags"),
        ("a.jsonl", '{"words": ["EU"], "tags": ["O"]}\n', "a.jsonl: row 1: no column tokens; it has words, tags"),
    ],
)
def test_other_files_are_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        read_sentences(tmp_path / name)


def test_tags_that_are_not_in_training_are_refused() -> None:
    splits = {"train": [(["a", "b"], ["O", "B-X"])], "dev": [(["a"], ["B-Y"])]}
    with pytest.raises(UsageError, match="--dev: the tag B-Y is not one of those of --train: O, B-X"):
        tags_of(splits)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", {("PER", 0, 1), ("LOC", 3, 3)}),
        ("I-PER I-PER B-PER O I-LOC", {("PER", 0, 1), ("PER", 2, 2), ("LOC", 4, 4)}),  # IOB1
        ("B-PER I-LOC I-LOC", {("PER", 0, 0), ("LOC", 1, 2)}),
        ("S-PER B-LOC I-LOC E-LOC O", {("PER", 0, 0), ("LOC", 1, 3)}),  # IOBES
        ("O O", set()),
    ],
)
def test_entities_are_those_of_conlleval(tags: str, found: set[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == found


def test_an_entity_is_right_as_a_whole() -> None:
    """The example of seqeval's documentation, where one of two entities is found."""
    wanted = ["O O O B-MISC I-MISC I-MISC O".split(), "B-PER I-PER O".split()]
    found = ["O O B-MISC I-MISC I-MISC I-MISC O".split(), "B-PER I-PER O".split()]
    scores = entity_scores(wanted, found)
    assert scores == pytest.approx({"entity-f1": 50, "entity-precision": 50, "entity-recall": 50, "accuracy": 80})


def test_parts_of_speech_have_accuracy_alone() -> None:
    task = Tagging({"train": [(["a", "b", "c"], ["NN", "VB", "NN"])]}, ("NN", "VB"))
    assert task.scores("train", task.constant("train")) == {"accuracy": pytest.approx(200 / 3)}
