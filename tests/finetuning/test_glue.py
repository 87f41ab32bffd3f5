"""GLUE's files, small ones with their quirks, and the real ones where they are at hand."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from tarfile import open as open_tar

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.finetuning.glue import TASKS, find_task, read_split, write_submission

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
    (tmp_path / "CoLA/dev.tsv").write_text("gj04\t1\t\tThe sailors rode.\nks08\t0\t*\tHim rode.\n")
    (tmp_path / "CoLA/test.tsv").write_text("index\tsentence\n0\tBill whistled.\n")
    (tmp_path / "MRPC/dev.tsv").write_text(
        'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\t"We go , he said .\tHe said " we go " .\n', "utf-8-sig"
    )
    cola = read_split(tmp_path, TASKS["CoLA"], "dev")
    assert (cola.texts, cola.labels) == ([("The sailors rode.",), ("Him rode.",)], ["1", "0"])
    assert read_split(tmp_path, TASKS["CoLA"], "test").labels is None
    mrpc = read_split(tmp_path, TASKS["MRPC"], "dev")
    assert (mrpc.texts, mrpc.labels) == ([('"We go , he said .', 'He said " we go " .')], ["1"])


def test_rows_without_all_columns_are_left_out_of_training_only(tmp_path: Path) -> None:
    (tmp_path / "QQP").mkdir()
    content = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tA?\tB?\t0\n4\t5\t6\tC?\n"
    for split in ("train", "dev"):
        (tmp_path / f"QQP/{split}.tsv").write_text(content)
    train = read_split(tmp_path, TASKS["QQP"], "train")
    assert (len(train), train.broken) == (1, [2])
    with pytest.raises(UsageError, match="dev.tsv: row 2 has other columns"):
        read_split(tmp_path, TASKS["QQP"], "dev")


@pytest.mark.parametrize("name", list(ROWS))
def test_the_real_files_are_read_in_full(name: str, tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    with open_tar(shared_data(f"glue/{name}.tar.xz")) as tar:
        tar.extractall(tmp_path, filter="data")
    task = find_task(name.lower())
    for split, rows in zip(("train", "dev", "test"), ROWS[name], strict=True):
        if rows is not None:
            table = read_split(tmp_path, task, split)
            assert len(table) == rows and not table.broken
            assert table.labels is None or not task.classes or set(table.labels) == set(task.classes)


def test_other_tasks_are_refused() -> None:
    with pytest.raises(UsageError, match="--tasks SQuAD: no task of GLUE; choose from CoLA, SST-2"):
        find_task("SQuAD")


def test_the_zip_is_what_the_server_takes(tmp_path: Path) -> None:
    missing = write_submission(
        {"RTE.tsv": ["entailment", "not_entailment"], "STS-B.tsv": ["2.500"]}, tmp_path / "a.zip"
    )
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["RTE.tsv", "STS-B.tsv"]
        assert archive.read("RTE.tsv").decode() == "index\tprediction\n0\tentailment\n1\tnot_entailment\n"
    assert missing == [
        *("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv", "WNLI.tsv"),
        "AX.tsv",
    ]
    with pytest.raises(UsageError, match="a.zip exists"):
        write_submission({}, tmp_path / "a.zip")
