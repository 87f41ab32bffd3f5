"""`inspect --html`: a browser shows the page, and its figures are those of the files."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.binarize import binarize
from data_prep.clean import clean
from data_prep.config import BinarizeConfig, SplitConfig
from data_prep.corpus import Document, corpus_files, read_file, write_file
from data_prep.dedup import dedup
from data_prep.encoded import read_data
from data_prep.inspect_page import language
from data_prep.split import split
from data_prep.text.minhash import NearDuplicates
from data_prep.text.rules import CleanConfig

ATTACK = "<script>document.body.dataset.attacked = 1</script>"
GERMAN = "Der alte Gärtner hatte niemandem gesagt, dass der Obstgarten hinter der Kapelle verkauft werden sollte. " * 3


def prose(n: int) -> str:
    chance = random.Random(n)
    words = ["".join(chance.choices("aeioulmnrst", k=chance.randint(3, 8))) for _ in range(120)]
    return "\n".join(" ".join(words[i : i + 10]) + "." for i in range(0, len(words), 10))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """The folder of a run: of 14 documents, one is too short, one a copy and one nearly a copy."""
    run = tmp_path_factory.mktemp("prepared")
    texts = [*map(prose, range(10)), f"{ATTACK} {prose(10)}", ATTACK, prose(3), prose(4).replace(" ", " changed ", 1)]
    documents = [Document(f"{ATTACK}{n}", "test", f"T{n}", text) for n, text in enumerate(texts)]
    write_file(documents, run / "corpus/test-00000.parquet")
    clean(run / "corpus", run / "clean", CleanConfig(min_characters=100), 0)
    dedup(run / "clean", run / "dedup", NearDuplicates(), 0)
    split(run / "dedup", run / "split", SplitConfig(valid=0.4))
    binarize(run / "split", tokenizer, run / "data", BinarizeConfig(), 0)
    return run


@pytest.fixture(scope="module")
def page(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("plotly", reason="pages need the extra report: pip install -e '.[report]'")
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["inspect", str(prepared), "--samples", "2", "--html", str(path)]) == 0
    return path


def test_a_browser_shows_the_page_and_runs_nothing_of_the_data(page: Path, open_page: Callable[[str], Any]) -> None:
    browser = open_page(page.as_uri())
    assert browser.execute_script("return [document.body.dataset.attacked, document.body.dataset.ready]") == [
        None,
        "yes",
    ]
    assert browser.execute_script("return document.querySelectorAll('.js-plotly-plot .main-svg').length") >= 10
    assert ATTACK in browser.execute_script("return document.body.textContent")


def test_figures_are_those_of_the_files(page: Path, prepared: Path, parts_of: Callable[..., Any]) -> None:
    texts = {
        stage: [d.text for path in corpus_files(prepared / stage) for d in read_file(path)]
        for stage in ("corpus", "clean", "dedup", "split/train", "split/valid")
    }
    characters = {stage: sum(map(len, some)) for stage, some in texts.items()}
    stages, languages = parts_of(page, "table")[:2]
    rows = {(stage, what): figures for stage, what, *figures in stages["rows"]}
    assert rows["clean", "kept"] == [13, characters["clean"], None]
    assert rows["clean", "too few characters"] == [1, len(ATTACK), None]
    assert rows["dedup", "kept"] == [11, characters["dedup"], None]
    assert rows["dedup", "exact duplicate"] == [1, len(prose(3)), None]
    assert rows["dedup", "near duplicate"] == [1, len(prose(4)) + len("changed "), None]
    assert rows["split", "kept"] == [11, characters["dedup"], None]

    train = texts["split/train"]
    plots = {(plot["section"], plot["title"]): plot["views"][0]["traces"][0] for plot in parts_of(page, "plot")}
    lengths = plots["Documents", "Characters in a document"]
    assert lengths["y"] == [*np.histogram([*map(len, train)], lengths["x"])[0], 0]
    assert sum(count for _, count in languages["rows"]) == len(train)

    data = read_data(prepared / "data/train")
    counts = Counter(data.tokens.tolist())
    assert plots["Tokens of train", "Frequency by rank"]["y"] == sorted(counts.values(), reverse=True)
    tokens = next(t for t in parts_of(page, "table") if t["section"] == "Tokens of train")
    assert [row[2] for row in tokens["rows"]] == sorted(counts.values(), reverse=True)[: len(tokens["rows"])]


def test_a_duplicate_stands_beside_what_it_repeats(page: Path, parts_of: Callable[..., Any]) -> None:
    found = {part["mark"]: part for part in parts_of(page, "texts") if part["section"] == "Dropped"}
    assert set(found) == {"clean: too few characters", "dedup: exact duplicate", "dedup: near duplicate"}
    dropped, repeated = found["dedup: near duplicate"]["panes"]
    assert dropped["label"] == "dropped, test-00000.parquet:12" and repeated["label"] == "repeats test-00000.parquet:4"
    assert [text for text, marked in dropped["runs"] if marked] == ["changed"]
    assert "".join(text for text, _ in repeated["runs"]).startswith(prose(4)[:100])
    short, kept = found["clean: too few characters"]["panes"]
    assert short["runs"] == [[ATTACK, False]] and kept["label"].startswith("kept, ")


def test_a_run_of_an_earlier_version_has_no_characters_of_what_it_dropped(
    prepared: Path, tmp_path: Path, parts_of: Callable[..., Any]
) -> None:
    pytest.importorskip("plotly")
    for path in (prepared / "clean/.dropped").glob("*.parquet"):
        target = tmp_path / "clean/.dropped" / path.name
        target.parent.mkdir(parents=True)
        pq.write_table(pq.read_table(path).drop_columns("characters"), target)
    for name in ("clean.json", "test-00000.parquet"):
        (tmp_path / "clean" / name).write_bytes((prepared / "clean" / name).read_bytes())
    assert main(["inspect", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    (table,) = (part for part in parts_of(tmp_path / "page.html", "table") if part["section"] == "Stages")
    assert [row[:4] for row in table["rows"][1:]] == [["clean", "too few characters", 1, None]]


def test_languages_are_guessed() -> None:
    assert language(GERMAN) == "de"
    assert language("ქართული დამწერლობა") == "ka"
    assert language("12 34") == "no letters"
