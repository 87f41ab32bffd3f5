"""GLUE's files, small ones with their quirks, and the real ones where they are at hand."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from tarfile import open as open_tar

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.glue import (
    TASKS,
    find_task,
    read_labelled,
    read_tests,
    write_submission,
)

# Rows of train, dev and test of the original download.
ROWS = {
    "CoLA": (8551, 1043, 1063),
    "SST-2": (67349, 872, 1821),
    "MRPC": (3668, 408, 1725),
    "STS-B": (5749, 1500, 1379),
    "RTE": (2490, 277, 3000),
    "QNLI": (None, 5463, 5463),
}


def test_cola_has_no_header_and_mrpc_a_byte_order_mark_and_stray_quotes(tmp_path: Path) -> None:
    for name in ("CoLA", "MRPC"):
        (tmp_path / name).mkdir()
    for split in ("train", "dev"):
        (tmp_path / f"CoLA/{split}.tsv").write_text("gj04\t1\t\tThe sailors rode.\nks08\t0\t*\tHim rode.\n")
        (tmp_path / f"MRPC/{split}.tsv").write_text(
            'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\t"We go , he said .\tHe said " we go " .\n',
            "utf-8-sig",
        )
    (tmp_path / "CoLA/test.tsv").write_text("index\tsentence\n0\tBill whistled.\n")
    cola = read_labelled(tmp_path, TASKS["CoLA"])["dev"]
    assert (cola.texts, cola.labels) == ([("The sailors rode.",), ("Him rode.",)], ["1", "0"])
    assert read_tests(tmp_path, TASKS["CoLA"])["CoLA.tsv"].labels is None
    mrpc = read_labelled(tmp_path, TASKS["MRPC"])["dev"]
    assert (mrpc.texts, mrpc.labels) == ([('"We go , he said .', 'He said " we go " .')], ["1"])


def test_rows_without_all_columns_are_left_out_of_training_only(tmp_path: Path) -> None:
    (tmp_path / "QQP").mkdir()
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tA?\tB?\t0\n"
    (tmp_path / "QQP/train.tsv").write_text(f"{header}4\t5\t6\tC?\n")
    (tmp_path / "QQP/dev.tsv").write_text(header)
    tables = read_labelled(tmp_path, TASKS["QQP"])
    assert (len(tables["train"]), tables["train"].broken, len(tables["dev"])) == (1, [2], 1)
    (tmp_path / "QQP/dev.tsv").write_text(f"{header}4\t5\t6\tC?\n")
    with pytest.raises(UsageError, match="dev.tsv: row 2 has 4 columns instead of 6"):
        read_labelled(tmp_path, TASKS["QQP"])


@pytest.mark.parametrize("name", list(ROWS))
def test_the_real_files_are_read_in_full(name: str, tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    with open_tar(shared_data(f"glue/{name}.tar.xz")) as tar:
        tar.extractall(tmp_path, filter="data")
    task = find_task(name.lower())
    if ROWS[name][0] is None:  # that data has no train set of it
        (tmp_path / name / "train.tsv").write_bytes((tmp_path / name / "dev.tsv").read_bytes())
    tables = [*read_labelled(tmp_path, task).values(), *read_tests(tmp_path, task).values()]
    for rows, table in zip(ROWS[name], tables, strict=True):
        assert len(table) == rows or rows is None
        assert not table.broken
        assert table.labels is None or not task.classes or set(table.labels) == set(task.classes)


def test_mnli_may_be_the_folder_of_its_authors(tmp_path: Path) -> None:
    (tmp_path / "multinli_1.0").mkdir()
    rows = [("A.", "B.", "neutral"), ("C.", "D.", "-"), ("E.", "F.", "entailment")]
    for split in ("train", "dev_matched", "dev_mismatched"):
        keys = ("sentence1", "sentence2", "gold_label")
        lines = [json.dumps({"genre": "fiction", **dict(zip(keys, row, strict=True))}) + "\n" for row in rows]
        (tmp_path / f"multinli_1.0/multinli_1.0_{split}.jsonl").write_text("".join(lines))
    for table in read_labelled(tmp_path, TASKS["MNLI"]).values():
        assert (table.texts, table.labels) == ([("A.", "B."), ("E.", "F.")], ["neutral", "entailment"])


def test_dev_and_test_sets_are_read_in_full_though_a_question_is_empty(tmp_path: Path) -> None:
    (tmp_path / "QQP").mkdir()
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    for split in ("train", "dev"):
        (tmp_path / f"QQP/{split}.tsv").write_text(f"{header}1\t2\t3\tA?\t\t0\n4\t5\t6\tB?\tC?\t1\n")
    tables = read_labelled(tmp_path, TASKS["QQP"])
    assert tables["train"].texts == [("B?", "C?")] and tables["dev"].texts == [("A?", ""), ("B?", "C?")]
    (tmp_path / "QQP/test.tsv").write_text("id\tquestion1\tquestion2\n0\tA?\t\n1\tB?\tC?\n")
    assert read_tests(tmp_path, TASKS["QQP"])["QQP.tsv"].texts == [("A?", ""), ("B?", "C?")]


def test_other_tasks_are_refused() -> None:
    with pytest.raises(UsageError, match="--tasks SQuAD: not a task of GLUE; choose from CoLA, SST-2"):
        find_task("SQuAD")


def test_the_zip_is_what_the_server_takes(tmp_path: Path) -> None:
    missing = write_submission(
        {"RTE.tsv": ["entailment", "not_entailment"], "STS-B.tsv": [2.5, -0.1, 5.2]}, tmp_path / "a.zip"
    )
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["RTE.tsv", "STS-B.tsv"]
        assert archive.read("RTE.tsv").decode() == "index\tprediction\n0\tentailment\n1\tnot_entailment\n"
        assert archive.read("STS-B.tsv").decode() == "index\tprediction\n0\t2.500\n1\t0.000\n2\t5.000\n"
    assert missing == [
        *("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv", "WNLI.tsv"),
        "AX.tsv",
    ]
