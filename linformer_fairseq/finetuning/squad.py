"""Answers that are parts of a text: SQuAD's files, 1.1 and 2.0, and its scores (Rajpurkar et al. 2016, 2018)."""

import json
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.heads import Feature, Scores
from linformer_fairseq.scores import Array

METRICS = ("f1", "exact-match")
LONGEST_ANSWER = 30  # tokens, as in BERT's script
BEST = 20  # starts and ends that are combined
_NO_WORDS = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class Question:
    """One question; without answers it has none in the text."""

    id: str
    text: str
    context: str
    answers: tuple[str, ...]
    start: int = 0  # of the first answer, in characters


def read_questions(path: Path) -> list[Question]:
    """The questions of a file; UsageError for one that is missing or of another form, and where an answer is not."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    found = []
    try:
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    answers = [] if qa.get("is_impossible") else qa["answers"]
                    start = int(answers[0]["answer_start"]) if answers else 0
                    texts = tuple(str(answer["text"]) for answer in answers)
                    found.append(Question(str(qa["id"]), qa["question"].strip(), paragraph["context"], texts, start))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not a file of SQuAD ({type(error).__name__}: {error})") from error
    for question in found:
        if question.answers and not question.context[question.start :].startswith(question.answers[0]):
            raise UsageError(f"{path}: question {question.id}: its answer is not at character {question.start}")
    if not found:
        raise UsageError(f"{path}: has no questions")
    return found


def normalized(answer: str) -> list[str]:
    """The words that are compared: in lower case, without punctuation and articles."""
    return _NO_WORDS.sub(" ", "".join(c for c in answer.lower() if c not in string.punctuation)).split()


def answer_scores(wanted: Sequence[str], found: str) -> tuple[float, float]:
    """F1 of the words, and whether all are the same, by the best of the right answers, 0 to 1."""
    guess, best = normalized(found), (0.0, 0.0)
    for answer in wanted or [""]:
        words = normalized(answer)
        same = sum((Counter(words) & Counter(guess)).values())
        f1 = 2 * same / (len(words) + len(guess)) if words and guess else float(words == guess)
        best = max(best[0], f1), max(best[1], float(words == guess))
    return best


@dataclass(frozen=True)
class Answering:
    """First and last token of the answer, or both at the first token; see `heads.HeadTask`."""

    splits: Mapping[str, Sequence[Question]]
    stride: int  # tokens that pieces of a long text share

    model = "LinformerForQuestionAnswering"
    suffix = ".json"
    metrics = METRICS

    def settings(self) -> dict[str, Any]:
        """Nothing for the model's configuration."""
        return {}

    def features(self, split: str, tokenizer: Any, longest: int) -> list[Feature]:
        """Question and text, a long one in pieces; where the answer is not all in a piece, it is at the first token."""
        found: list[Feature] = []
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        special = tokenizer.num_special_tokens_to_add(pair=True)
        for row, question in enumerate(self.splits[split]):
            asked = tokenizer(question.text, add_special_tokens=False)["input_ids"][: longest // 3]
            text = tokenizer(question.context, add_special_tokens=False, return_offsets_mapping=True)
            ids, offsets = text["input_ids"], text["offset_mapping"]
            room = longest - len(asked) - special
            step = max(1, room - min(self.stride, room // 2))
            answer = _tokens_of(offsets, question)
            front = len(asked) + special - 1
            for begin in range(0, max(1, len(ids) - room + step), step):
                end = min(begin + room, len(ids))
                inside = bool(answer) and begin <= answer[0] and answer[-1] < end
                first, last = (answer[i] - begin + front if inside else 0 for i in (0, -1))
                piece = {"start_positions": first, "end_positions": last, "row": row}
                piece["input_ids"] = [cls, *asked, *[sep] * (special - 2), *ids[begin:end], sep]
                found.append({**piece, "offsets": [None] * front + offsets[begin:end] + [None]})
        return found

    def predictions(self, split: str, features: Sequence[Feature], logits: Sequence[Array]) -> list[str]:
        """The best span for each question; none where the first token is better, if training has such questions."""
        questions = self.splits[split]
        best = [(-np.inf, "")] * len(questions)
        none = np.full(len(questions), np.inf)
        for feature, scores in zip(features, logits, strict=True):
            row, offsets = feature["row"], feature["offsets"]
            none[row] = min(none[row], scores[0].sum())
            real = [i for i, place in enumerate(offsets) if place is not None]
            starts, ends = (sorted(real, key=lambda i: -scores[i, side])[:BEST] for side in (0, 1))  # noqa: B023
            for i in starts:
                for j in ends:
                    if i <= j < i + LONGEST_ANSWER and (value := scores[i, 0] + scores[j, 1]) > best[row][0]:
                        best[row] = value, questions[row].context[offsets[i][0] : offsets[j][1]].strip()
        unanswered = any(not question.answers for question in self.splits["train"])
        return ["" if unanswered and none[row] > value else text for row, (value, text) in enumerate(best)]

    def scores(self, split: str, found: Sequence[str]) -> Scores:
        """Means of `answer_scores` in percent."""
        pairs = [answer_scores(q.answers, answer) for q, answer in zip(self.splits[split], found, strict=True)]
        return dict(zip(METRICS, map(float, 100 * np.mean(pairs, axis=0)), strict=True))

    def constant(self, split: str) -> list[str]:
        """No answer at all."""
        return [""] * len(self.splits[split])

    def text(self, split: str, found: Sequence[str]) -> str:
        """Answers by question, as SQuAD's own script reads them."""
        return json.dumps({q.id: answer for q, answer in zip(self.splits[split], found, strict=True)}, indent=1) + "\n"


def _tokens_of(offsets: Sequence[tuple[int, int]], question: Question) -> list[int]:
    """The tokens of the first answer."""
    if not question.answers:
        return []
    end = question.start + len(question.answers[0])
    return [i for i, (a, b) in enumerate(offsets) if b > question.start and a < end and b > a]
