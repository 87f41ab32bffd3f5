"""Answers that are parts of a text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from linformer_fairseq.checkpoints.hf_tokenizer import build_tokenizer
from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.squad import Answering, Question, answer_scores, read_questions


def squad(*qas: dict[str, object], context: str = "The river is old.") -> str:
    return json.dumps({"version": "v2.0", "data": [{"title": "a", "paragraphs": [{"context": context, "qas": qas}]}]})


def test_both_versions_are_read(tmp_path: Path) -> None:
    first = {"id": "1", "question": "What? ", "answers": [{"text": "river", "answer_start": 4}]}
    second = {"id": "2", "question": "Who?", "answers": [], "is_impossible": True, "plausible_answers": []}
    (tmp_path / "a.json").write_text(squad(first, second))
    one, two = read_questions(tmp_path / "a.json")
    assert (one.text, one.answers, one.start) == ("What?", ("river",), 4)
    assert two.answers == () and two.context == "The river is old."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "a.json: not a file of SQuAD"),
        ("{", "a.json: not a file of SQuAD"),
        (squad(), "a.json: has no questions"),
        (
            squad({"id": "7", "question": "?", "answers": [{"text": "river", "answer_start": 5}]}),
            "a.json: question 7: its answer is not at character 5",
        ),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_questions(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("wanted", "found", "scores"),
    [
        (["the Old River"], "old river!", (1, 1)),
        (["Denver Broncos", "the Broncos"], "Broncos", (1, 1)),
        (["a b c d"], "c d e", (2 * 2 / 6, 0)),  # the article is no word
        ([], "", (1, 1)),
        ([], "river", (0, 0)),
        (["river"], "", (0, 0)),
    ],
)
def test_scores_are_those_of_squads_script(wanted: list[str], found: str, scores: tuple[float, float]) -> None:
    assert answer_scores(wanted, found) == pytest.approx(scores)


@pytest.mark.parametrize("longest", [512, 24])
def test_the_answer_is_found_where_its_tokens_are(longest: int, tokenizer: Path) -> None:
    """In a text with white space that tokenizing collapses, and in pieces of it."""
    context = "the river  garden\tchild teacher book city winter letter good bad warm cold likes \n sees reads"
    answers = ("warm cold likes",)
    splits = {"train": [Question("1", "what is it", context, answers, context.index(answers[0]))]}
    task = Answering(splits, stride=8)
    features = task.features("train", build_tokenizer(tokenizer, longest), longest)
    assert all(len(feature["input_ids"]) == len(feature["offsets"]) <= longest for feature in features)
    assert len(features) > 1 or longest == 512
    logits = []
    for feature in features:
        scores = np.zeros((len(feature["input_ids"]), 2))
        scores[feature["start_positions"], 0] += 5
        scores[feature["end_positions"], 1] += 5
        logits.append(scores)
    assert task.predictions("train", features, logits) == list(answers)
    assert task.scores("train", answers) == {"f1": 100, "exact-match": 100}
    unanswerable = [Question("2", "what is it", context, ())]
    other = Answering({"train": unanswerable}, stride=8)
    features = other.features("train", build_tokenizer(tokenizer, longest), longest)
    assert {feature["start_positions"] for feature in features} == {0}
    logits = [np.eye(len(feature["input_ids"]))[:, [0, 0]] for feature in features]
    assert other.predictions("train", features, logits) == [""]
