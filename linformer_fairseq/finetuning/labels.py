"""The labels of tables: names of classes, and what is trained on and scored with."""

import math
import sys
from collections.abc import Sequence

import numpy as np

from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.scores import Array
from linformer_fairseq.tables import SEPARATOR, Table


def classes_of(table: Table, several: bool = False) -> tuple[str, ...]:
    """The names of a table's classes, sorted, numbers by value; `several`: a row has any number of them.

    Numbers that are the same, such as 1 and 1.0, are one class, which is said. UsageError if there is only one class,
    and for scores.
    """
    names = sorted({name for label in table.labels or () for name in (_split(label) if several else [label])})
    numbers = {name: value for name in names if (value := _number(name)) is not None}
    if len(numbers) == len(names):
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise UsageError(f"{table.path}: the label {name} is no class among numbers; remove its rows")
            if value != int(value):
                raise UsageError(f"{table.path}: labels such as {name} are scores, not classes; use --regression")
        names = sorted(names, key=lambda name: (numbers[name], len(name)))
        first = {numbers[name]: name for name in reversed(names)}
        if same := [f"{name} and {first[numbers[name]]}" for name in names if first[numbers[name]] != name]:
            print(f"{table.path}: the labels {', '.join(same)} are one class", file=sys.stderr)
        names = list(dict.fromkeys(first[numbers[name]] for name in names))
    if len(names) < 2:
        raise UsageError(f"{table.path}: all rows have the label {''.join(names)!r}; two classes are needed")
    return tuple(names)


def targets(table: Table, labels: Labels) -> Array:
    """Class ids or scores (rows,) of a table's labels, or zeros and ones (rows, classes).

    UsageError without labels, and for one that is no class or no number.
    """
    if table.labels is None:
        raise UsageError(f"{table.path}: has no labels to train or score with")
    if not labels.classes:
        return np.array([_score(f"{table.path}: row {row}", text) for row, text in enumerate(table.labels, start=1)])
    ids: dict[str | float | None, int] = {name: i for i, name in enumerate(labels.classes)}
    values = [_number(name) for name in labels.classes]
    if None not in values:  # 1.0 is the class 1
        ids |= {value: i for i, value in enumerate(values)}
    places: list[tuple[int, int]] = []
    for row, label in enumerate(table.labels):
        for name in _split(label) if labels.several else [label]:
            number = ids.get(name, ids.get(_number(name)))
            if number is None:
                known = ", ".join(labels.classes[:10])
                raise UsageError(f"{table.path}: row {row + 1} has the label {name!r}, which is none of {known}")
            places.append((row, number))
    if not labels.several:
        return np.array([float(number) for _, number in places])
    found = np.zeros((len(table), len(labels.classes)))
    for place in places:
        found[place] = 1
    return found


def class_weights(found: Array, classes: int) -> Sequence[float]:
    """Weights of the classes with which each counts the same in the training rows; of several labels, that of a row
    that has the label, where one without it has 1. At most 100."""
    if found.ndim > 1:
        counts = found.sum(0)
        weights = (len(found) - counts) / np.maximum(counts, 1)
    else:
        weights = len(found) / classes / np.maximum(np.bincount(found.astype(int), minlength=classes), 1)
    return [round(float(min(weight, 100)), 6) for weight in weights]


def _split(label: str) -> list[str]:
    return [name for part in label.split(SEPARATOR) if (name := part.strip())]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _score(where: str, text: str) -> float:
    value = _number(text)
    if value is None:
        raise UsageError(f"{where}: a score is not a number ({text!r}); is it a classification?")
    if not math.isfinite(value):
        raise UsageError(f"{where} has the score {text}, which is no number; remove that row")
    return value
