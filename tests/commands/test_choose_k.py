"""The proposal of k and W: its table, its flags, its refusals."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq import cli
from linformer_fairseq.commands.choose_k import cheapest
from linformer_fairseq.errors import UsageError

CANDIDATES = [(k, window) for window in (0, 16) for k in (16, 32, 64)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(" ".join(random.Random(0).choices("the river garden child teacher book city reads".split(), k=900)))
    return path


def test_every_candidate_is_shown_and_the_flags_fit(
    checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["choose-k", str(checkpoint), str(text), "--passages", "2"]
    assert cli.main([*command, "--error", "0.06"]) == 0
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines() if re.match(r" *\d+ +\d+ +\d", line)][-12:]
    assert [row[:2] for row in rows] == [[k, w] for w in ("0", "16", "32", "64") for k in ("16", "32", "64")]
    assert all(float(error) < 1e-3 for row in rows if row[0] == "64" for error in row[3:])
    assert float(rows[0][3]) > float(rows[1][3]) > 0
    layers = len(rows[0]) - 3
    found = re.search(
        r"^--projection adaptive --projected-length ([\d,]+) --local-window (\d+)$", shown.out, re.MULTILINE
    )
    assert found is not None
    chosen = [next(row for row in rows if row[:2] == [k, found[2]]) for k in found[1].split(",")]
    assert len(chosen) == layers
    assert all(float(row[3 + layer]) <= 0.06 for layer, row in enumerate(chosen))
    assert "exact attention is no dearer" not in shown.out
    assert cli.main([*command, "--error", "1e-5"]) == 0
    assert "exact attention is no dearer" in capsys.readouterr().out
    assert cli.main([*command, "--error", "2", "--max-positions", "256"]) == 0
    shown = capsys.readouterr()
    assert "2 passages of 256 tokens" in shown.out and "no dearer" not in shown.out
    assert shown.out.endswith(f"--projected-length {','.join(['16'] * layers)} --local-window 0\n")


def test_layers_of_different_k_have_projections_of_their_own(
    checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linformer_fairseq.commands.choose_k.cheapest", lambda *_: [(16, 32), (64, 32)])
    assert cli.main(["choose-k", str(checkpoint), str(text), "--passages", "1"]) == 0
    wanted = "--projected-length 16,64 --local-window 32 --projection-sharing key-value\n"
    assert wanted in capsys.readouterr().out


@given(
    found=st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=2), min_size=6, max_size=6),
    prices=st.lists(st.integers(1, 9), min_size=6, max_size=6),
    bound=st.floats(0, 1),
)
def test_no_choice_within_the_bound_is_cheaper(found: list[list[float]], prices: list[int], bound: float) -> None:
    errors = dict(zip(CANDIDATES, found, strict=True))
    costs = {c: float(price) for c, price in zip(CANDIDATES, prices, strict=True)}
    pairs = [(a, b) for a in CANDIDATES for b in CANDIDATES if a[1] == b[1]]
    allowed = [costs[a] + costs[b] for a, b in pairs if errors[a][0] <= bound and errors[b][1] <= bound]
    if not allowed:
        with pytest.raises(UsageError, match="choose a higher one"):
            cheapest(errors, costs, bound)
        return
    chosen = cheapest(errors, costs, bound)
    assert len({window for _, window in chosen}) == 1
    assert all(errors[c][layer] <= bound for layer, c in enumerate(chosen))
    assert sum(costs[c] for c in chosen) == min(allowed)
