"""The tasks of GLUE (Wang et al. 2018): their files with all quirks, metrics, and what the server takes.

Names and columns are those of the original download, a folder a task.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.tables import Layout, Table, read_table
from linformer_fairseq.io.files import replace_when_done

_COLA = ("source", "label", "original", "sentence")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: of its folder.
        text: column or columns of text.
        label: column of the label in train and dev.
        classes: labels in the order of their ids; empty for a score.
        metrics: names in `metrics.py`, the first one chooses the best model.
        header: columns of train and dev where they have no header.
        evaluations: suffixes of the dev and test files, each scored on its own.
        server: name of each test set's file in the server's zip.
    """

    name: str
    text: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    server: tuple[str, ...]
    header: tuple[str, ...] | None = None
    evaluations: tuple[str, ...] = ("",)

    def layout(self, labelled: bool = True) -> Layout:
        """The layout of train and dev, or of test."""
        return Layout(self.text, self.label if labelled else None, self.header if labelled else None)


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("not_entailment", "entailment")
_THREE = ("contradiction", "neutral", "entailment")
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("CoLA", ("sentence",), "label", ("0", "1"), ("matthews", "accuracy"), ("CoLA.tsv",), _COLA),
        Task("SST-2", ("sentence",), "label", ("0", "1"), ("accuracy",), ("SST-2.tsv",)),
        Task("MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1"), ("accuracy", "f1"), ("MRPC.tsv",)),
        Task("STS-B", _PAIR, "score", (), ("pearson", "spearman"), ("STS-B.tsv",)),
        Task("QQP", ("question1", "question2"), "is_duplicate", ("0", "1"), ("accuracy", "f1"), ("QQP.tsv",)),
        Task(
            *("MNLI", _PAIR, "gold_label", _THREE, ("accuracy",), ("MNLI-m.tsv", "MNLI-mm.tsv")),
            evaluations=("_matched", "_mismatched"),
        ),
        Task("QNLI", ("question", "sentence"), "label", _ENTAILMENT, ("accuracy",), ("QNLI.tsv",)),
        Task("RTE", _PAIR, "label", _ENTAILMENT, ("accuracy",), ("RTE.tsv",)),
        Task("WNLI", _PAIR, "label", ("0", "1"), ("accuracy",), ("WNLI.tsv",)),
    )
}
DIAGNOSTIC = Layout(_PAIR)  # answered by the model of MNLI
DIAGNOSTIC_FILES = ("AX/diagnostic.tsv", "diagnostic/diagnostic.tsv")


def find_task(name: str) -> Task:
    """A task by its name, in any case, with or without hyphen.

    Raises:
        UsageError: no such task.
    """
    plain = {key.replace("-", "").lower(): task for key, task in TASKS.items()}
    task = plain.get(name.replace("-", "").lower())
    if task is None:
        raise UsageError(f"--tasks {name}: no task of GLUE; choose from {', '.join(TASKS)}")
    return task


def read_split(folder: Path, task: Task, split: str) -> Table:
    """The rows of ``folder/TASK/SPLIT.tsv``; rows with missing columns, which QQP has, are left out and counted.

    Args:
        folder: with a folder a task.
        task: the task.
        split: train, dev, test, or with a suffix, such as dev_matched.

    Raises:
        UsageError: as `read_table`; in dev and test, where a row must not be missing, also a broken row.
    """
    path = folder / task.name / f"{split}.tsv"
    return read_table(path, task.layout(not split.startswith("test")), skip_broken=split == "train")


def write_submission(predictions: Mapping[str, Sequence[str]], path: Path, force: bool = False) -> list[str]:
    """Writes the zip that GLUE's server takes: a TSV file for each test set, `index` and `prediction` in it.

    Args:
        predictions: file name in the zip -> a label or score for each row of its test set.
        path: of the zip.
        force: replace it.

    Returns:
        The files that the server still misses; it scores a zip only if all are in it.

    Raises:
        UsageError: the zip exists, and not `force`.
    """
    with replace_when_done(path, force) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, found in sorted(predictions.items()):
            lines = [f"{index}\t{prediction}" for index, prediction in enumerate(found)]
            archive.writestr(name, "\n".join(["index\tprediction", *lines]) + "\n")
    wanted = [name for task in TASKS.values() for name in task.server] + ["AX.tsv"]
    return [name for name in wanted if name not in predictions]
