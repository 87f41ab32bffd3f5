"""The tasks of GLUE (Wang et al. 2018): their files as downloaded, their metrics, and the submission to the server."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.tables import Table, read_table


@dataclass(frozen=True)
class Task:
    """One task."""

    name: str  # also that of its folder
    text: tuple[str, ...] = ("sentence1", "sentence2")  # one or two columns
    label: str = "label"  # column of the label in train and dev
    classes: tuple[str, ...] = ("0", "1")  # labels in the order of their ids; empty for a score
    metrics: tuple[str, ...] = ("accuracy",)  # see `finetuning.METRICS`; the best model is chosen by the first
    header: tuple[str, ...] | None = None  # columns of train and dev if they have no header line
    evaluations: tuple[str, ...] = ("",)  # suffixes of the dev and test files, each scored on its own

    def answers(self) -> dict[str, str]:
        """The test sets, and what the answers to them are named in the submission."""
        short = {"": "", "_matched": "-m", "_mismatched": "-mm"}
        return {f"test{suffix}.tsv": f"{self.name}{short[suffix]}.tsv" for suffix in self.evaluations}


_COLA = ("source", "label", "original", "sentence")
_ENTAILMENT = ("not_entailment", "entailment")
_THREE = ("contradiction", "neutral", "entailment")
TASKS = {
    task.name: task
    for task in (
        Task("CoLA", ("sentence",), metrics=("matthews", "accuracy"), header=_COLA),
        Task("SST-2", ("sentence",)),
        Task("MRPC", ("#1 String", "#2 String"), "Quality", metrics=("accuracy", "f1")),
        Task("STS-B", label="score", classes=(), metrics=("pearson", "spearman")),
        Task("QQP", ("question1", "question2"), "is_duplicate", metrics=("accuracy", "f1")),
        Task("MNLI", label="gold_label", classes=_THREE, evaluations=("_matched", "_mismatched")),
        Task("QNLI", ("question", "sentence"), classes=_ENTAILMENT),
        Task("RTE", classes=_ENTAILMENT),
        Task("WNLI"),
    )
}
DIAGNOSTIC_FILES = ("AX/diagnostic.tsv", "diagnostic/diagnostic.tsv")  # answered by the model of MNLI


def find_task(name: str) -> Task:
    """A task by its name, in any case, with or without hyphen; UsageError if there is none."""
    for task in TASKS.values():
        if task.name.replace("-", "").lower() == name.replace("-", "").lower():
            return task
    raise UsageError(f"--tasks {name}: not a task of GLUE; choose from {', '.join(TASKS)}")


def read_labelled(folder: Path, task: Task) -> dict[str, Table]:
    """`train`, and the table of each evaluation.

    Of `folder/TASK/train.tsv`, rows with missing or empty columns, which QQP has, are left out. MNLI may also be the
    folder `multinli_1.0` of its authors; rows without a label that most annotators chose are left out, as they advise.
    """
    tables = {}
    for name in ("train", *(f"dev{suffix}" for suffix in task.evaluations)):
        path = folder / task.name / f"{name}.tsv"
        if task.name == "MNLI" and not path.exists():
            path = folder / f"multinli_1.0/multinli_1.0_{name}.jsonl"
        how = {"skip_broken": True} if name == "train" else {"may_be_empty": task.text}
        table = tables[name] = read_table(path, task.text, task.label, task.header, **how)
        if task.name == "MNLI" and table.labels and "-" in table.labels:  # annotators did not agree
            agreed = [label != "-" for label in table.labels]
            table.texts, table.labels = [*compress(table.texts, agreed)], [*compress(table.labels, agreed)]
    return tables


def read_tests(folder: Path, task: Task) -> dict[str, Table]:
    """The test sets by their file names in the submission; with MNLI also the diagnostic set, if it is there."""
    paths = {name: folder / task.name / file for file, name in task.answers().items()}
    for place in DIAGNOSTIC_FILES if task.name == "MNLI" else ():
        if (folder / place).is_file():
            paths["AX.tsv"] = folder / place
    return {name: read_table(path, task.text, may_be_empty=task.text) for name, path in paths.items()}


def write_submission(predictions: Mapping[str, Sequence[str | float]], path: Path) -> list[str]:
    """Write the zip that GLUE's server takes: a TSV file for each test set, with columns `index` and `prediction`.

    Returns the files that are still missing; the server scores a zip only if all are in it.
    """
    with replace_when_done(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, found in sorted(predictions.items()):
            words = (value if isinstance(value, str) else f"{min(5.0, max(0.0, value)):.3f}" for value in found)
            lines = [f"{index}\t{word}" for index, word in enumerate(words)]
            archive.writestr(name, "\n".join(["index\tprediction", *lines]) + "\n")
    wanted = [name for task in TASKS.values() for name in task.answers().values()] + ["AX.tsv"]
    return [name for name in wanted if name not in predictions]
