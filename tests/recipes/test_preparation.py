"""What is measured of data_prep and of checkpoints, with --quick."""

from __future__ import annotations

import bz2
import random
from pathlib import Path

import pytest

from recipes.measure import checkpoint_time, preparation


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of plain text."""
    chance = random.Random(0)
    words = ["".join(chance.choices("aeioulmnrst", k=chance.randint(2, 9))) for _ in range(2000)]
    folder = tmp_path_factory.mktemp("books")
    for number in range(400):
        paragraphs = (" ".join(chance.choices(words, k=12)) for _ in range(3))
        (folder / f"{number}.txt").write_text("\n".join(paragraphs) + "\n")
    return folder


@pytest.mark.slow
def test_binarize_beside_the_pipeline_through_pieces(books: Path, tmp_path: Path) -> None:
    words = ["binarizing", str(books), "--quick", "--out", str(tmp_path), "--report", str(tmp_path / "a.md")]
    assert preparation.MEASUREMENT.main(words) == 0
    text = (tmp_path / "a.md").read_text()
    rows = {line.split("|")[1].strip(): line.split("|") for line in text.splitlines() if line.startswith("| ")}
    assert list(rows)[2:] == [
        *("sentencepiece alone, encode only", "data_prep binarize", "data_prep binarize, 1 worker"),
        "sentencepiece to pieces, then fairseq-preprocess",
    ]
    assert float(rows["sentencepiece to pieces, then fairseq-preprocess"][-2]) > 1


def test_extraction_beside_mwparserfromhell(tmp_path: Path) -> None:
    page = "<page><title>{0}</title><ns>0</ns><id>{0}</id><revision><id>1</id><text>'''{0}''' is a [[number]].</text>"
    pages = "".join(page.format(number) + "</revision></page>" for number in range(3))
    dump = '<mediawiki xml:lang="en"><siteinfo><namespaces><namespace key="0" /></namespaces></siteinfo>'
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(f"{dump}{pages}</mediawiki>".encode()))
    words = ["extraction", str(tmp_path / "dump.xml.bz2"), "--quick", "--out", str(tmp_path / "run")]
    assert preparation.MEASUREMENT.main(words) == 0
    text = (tmp_path / "run/table.md").read_text()
    assert "| data_prep (prose) | 2 | " in text and "| mwparserfromhell (parse, strip_code) | 2 | " in text
    words = ["extraction", str(tmp_path / "none.xml"), "--out", str(tmp_path / "other")]
    assert preparation.MEASUREMENT.main(words) == 1


@pytest.mark.slow
def test_the_cost_of_every_stage(tmp_path: Path) -> None:
    assert preparation.MEASUREMENT.main(["cost", "--quick", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "table.md").read_text()
    assert all(text.count(f"| {stage} | ") == 4 - (stage == "tokenizer") for stage in preparation.STAGES)
    assert "| stage | s, 2 files | s, 4 files | ratio |" in text and "1 TB by these figures, on 100 nodes" in text


@pytest.mark.slow
def test_every_way_of_writing_a_checkpoint(tmp_path: Path) -> None:
    assert checkpoint_time.MEASUREMENT.main(["--quick", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "table.md").read_text()
    assert all(f"| {way} | " in text for way in checkpoint_time.WAYS)
    assert "GB | training stands still (s), relative |" in text and not list(tmp_path.glob("**/*.pt"))
