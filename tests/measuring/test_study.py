"""The frame of every measurement: turns, cells that are kept, refusal of other settings, the report."""

from __future__ import annotations

import json
import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from linformer_fairseq.measuring.study import (
    Cells,
    Measurement,
    Options,
    Results,
    as_typed,
    comparison,
    flag,
    in_a_process,
    markdown,
    rounds_of,
)

CALLS: list[str] = []


FLAGS = [
    flag("data", Path),
    flag("--size", 3, quick=1),
    flag("--rounds", 2, quick=1),
    flag("--names", ["a", "b"], cells=True),
    flag("--share", 0.5),
    flag("--warm-up", 0, least=0),
]


def measure(options: Options, cells: Cells) -> None:
    def one(name: str) -> int:
        CALLS.append(name)
        if name == "broken":
            raise BrokenProcessPool
        return options.size * len(CALLS)

    cells.turns({name: lambda name=name: one(name) for name in options.names}, options.rounds)


def table(results: Results) -> str:
    return markdown(["", "value"], [[name, value] for name, value in results["cells"].items()])


MEASUREMENT = Measurement(__file__, "About.", FLAGS, measure, table)


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def test_contestants_take_turns_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    words = ["DATA", "--out", str(tmp_path / "run"), "--report", str(tmp_path / "report")]
    assert MEASUREMENT.main(words) == 0
    assert CALLS == ["a", "b", "a", "b"]
    results = json.loads((tmp_path / "report/results.json").read_text())
    assert rounds_of(results["cells"], "a") == [3, 9] and results["settings"]["size"] == 3
    assert results["machine"]["torch"] and results["commands"] == [f"python {Path(*Path(__file__).parts[-3:])} DATA"]
    assert MEASUREMENT.main([*words, "--rounds", "3", "--names", "a", "b", "c"]) == 0
    assert CALLS[4:] == ["c", "c", "a", "b", "c"]


def test_other_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["DATA", "--out", str(tmp_path)]
    assert MEASUREMENT.main(words) == 0
    assert MEASUREMENT.main([*words, "--size", "4"]) == 1
    assert "size changed" in capsys.readouterr().err and len(CALLS) == 4


def test_a_report_comes_from_stored_results_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert MEASUREMENT.main(["DATA", "--out", str(tmp_path / "run"), "--report", str(tmp_path / "new/a.md")]) == 0
    text = (tmp_path / "new/a.md").read_text()
    results = json.loads((tmp_path / "new/a.json").read_text()) | {"note": "Measured at night."}
    (tmp_path / "stored.json").write_text(json.dumps(results))
    capsys.readouterr()
    assert MEASUREMENT.main(["--results", str(tmp_path / "stored.json")]) == 0
    assert capsys.readouterr().out.strip() == f"{text}\nMeasured at night."
    assert len(CALLS) == 4
    assert MEASUREMENT.main(["--results", str(tmp_path / "none.json")]) == 1


def test_quick_changes_the_defaults_only(tmp_path: Path) -> None:
    assert MEASUREMENT.main(["DATA", "--out", str(tmp_path), "--quick", "--size", "7"]) == 0
    assert CALLS == ["a", "b"]
    assert json.loads((tmp_path / "results.json").read_text())["settings"]["size"] == 7


def test_a_killed_cell_stops_no_other_and_is_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["DATA", "--out", str(tmp_path), "--rounds", "1", "--names", "broken", "a"]
    assert MEASUREMENT.main(words) == 1
    assert CALLS == ["broken", "a"] and "broken, round 0: the process was killed" in capsys.readouterr().err
    assert MEASUREMENT.main(words) == 1
    assert CALLS[2:] == ["broken"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--out DIR is required"),
        (["--out", "x", "--rounds", "0"], "--rounds: 0: must be at least 1"),
        (["--out", "x", "--warm-up", "-1"], "--warm-up: -1: must be at least 0"),
        (["--out", "x", "--share", "nan"], "--share: nan: must be at least 0"),
    ],
)
def test_a_command_that_lacks_something_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        MEASUREMENT.main(["DATA", *words])
    assert said in capsys.readouterr().err


def test_a_cell_runs_in_a_process_of_its_own() -> None:
    first, second = (in_a_process(os.getpid)() for _ in range(2))
    assert len({os.getpid(), first, second}) == 3


def test_a_report_names_the_command_without_folders(tmp_path: Path) -> None:
    words = [str(tmp_path / "text"), "--out", "runs", "--n", "512", "--report", str(tmp_path), "--betas", "(0.9, 0.98)"]
    words += ["--student", f"a={tmp_path / 'a.pt'}", "b=b/c.pt"]
    expected = "python recipes/measure/update_speed.py DATA --n 512 --betas '(0.9, 0.98)' --student a=DATA b=b/c.pt"
    assert as_typed(str(tmp_path / "recipes/measure/update_speed.py"), words) == expected


def test_contestants_are_compared_by_the_medians_of_their_rounds() -> None:
    cells = {f"slow, round {i}": {"seconds": value, "pages": 3} for i, value in enumerate((2.0, 9.0, 4.0))}
    cells |= {f"fast, round {i}": {"seconds": 1.0} for i in range(3)} | {"other": {"seconds": 8000, "note": "big"}}
    results = {"cells": cells, "settings": {"size": 3}, "commands": ["python x.py"], "machine": {"device": "one"}}
    assert comparison("Title", "About.", "seconds")(results).splitlines() == [
        *("# Title", "", "    python x.py", "", "one; . size 3. About.", ""),
        "|  | seconds | pages | note | seconds, relative |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| slow | 4 (2-9) | 3 (3-3) |  | 1.00 |",
        "| fast | 1 (1-1) |  |  | 0.25 |",
        "| other | 8,000 |  | big | 2000.00 |",
    ]


def test_a_table_has_empty_fields_where_nothing_was_measured() -> None:
    assert markdown(["a", "b"], [["x", None], ["y", 2]]) == "| a | b |\n| --- | ---: |\n| x |  |\n| y | 2 |\n"
