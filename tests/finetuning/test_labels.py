"""Labels of tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.labels import class_weights, classes_of, targets
from linformer_fairseq.inference.predict import Labels
from linformer_fairseq.tables import Table


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["cold", "hot"], ("cold", "warm"), "row 2 has the label 'hot', which is none of cold, warm"),
        (["1.5", "much"], (), "a score is not a number.*much"),
        (["1.5", "nan"], (), "row 2 has the score nan, which is no number; remove that row"),
        (None, ("cold", "warm"), "dev.tsv: has no labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[str] | None, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        targets(Table(Path("dev.tsv"), [("a",), ("b",)], labels), Labels(classes, 1))


def test_numbers_as_class_names_are_in_their_order() -> None:
    assert classes_of(Table(Path("a.tsv"), [("a",)] * 3, ["10", "2", "1"])) == ("1", "2", "10")


def labelled(*labels: str) -> Table:
    return Table(Path("a.tsv"), [("a",)] * len(labels), list(labels))


def test_the_same_number_is_one_class_which_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    table = labelled("1.0", "0", "1", "2.0")
    assert classes_of(table) == ("0", "1", "2.0")
    assert capsys.readouterr().err == "a.tsv: the labels 1.0 and 1 are one class\n"
    np.testing.assert_array_equal(targets(table, Labels(("0", "1", "2.0"), 1)), [1, 0, 1, 2])


@pytest.mark.parametrize("label", ["nan", "inf"])
def test_what_is_no_number_is_no_class_among_numbers(label: str) -> None:
    with pytest.raises(UsageError, match=f"a.tsv: the label {label} is no class among numbers; remove its rows"):
        classes_of(labelled("0", "1", label))
    assert classes_of(labelled("yes", label)) == (label, "yes")


def test_a_row_may_have_several_labels_or_none() -> None:
    table = labelled("sport|news", "", "news | film")
    labels = Labels(classes_of(table, several=True), 1, several=True)
    assert labels.classes == ("film", "news", "sport")
    np.testing.assert_array_equal(found := targets(table, labels), [[0, 1, 1], [0, 0, 0], [1, 1, 0]])
    assert labels.names(found - 0.5) == ["news|sport", "", "film|news"]
    assert class_weights(found, 3) == [2, 0.5, 2]


def test_rare_classes_weigh_more() -> None:
    found = np.array([0.0] * 6 + [1.0] * 2)
    weights = class_weights(found, 2)
    assert weights[0] * 6 == pytest.approx(weights[1] * 2, abs=1e-5) and sum(
        weights[int(i)] for i in found
    ) == pytest.approx(8)
