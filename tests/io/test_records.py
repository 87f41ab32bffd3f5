"""Records of finished work, and the refusal to mix settings in one folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.records import begun, finish


def test_unfinished_work_is_resumed_with_the_same_settings_only(tmp_path: Path) -> None:
    record = tmp_path / "clean.json"
    assert begun(record, {"words": (1, 2), "rule": "a"}) is None
    assert begun(record, {"words": [1, 2], "rule": "c"}) is None  # nothing was made yet
    assert begun(record, {"words": [1, 2], "rule": "a"}) is None
    (tmp_path / "part").touch()
    assert begun(record, {"words": [1, 2], "rule": "a"}) is None
    assert begun(record, {"words": [1, 2], "rule": "c"}, ignored={"rule"}) is None
    with pytest.raises(UsageError, match=r"unfinished work of other settings \(rule changed, see clean\.settings\)"):
        begun(record, {"words": [1, 2], "rule": "b"})


def test_finished_work_is_returned_with_the_same_settings_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "clean.json"
    done = [{"files": {"a": "1"}, "seconds": 1.0}, {"files": {"b": "2"}, "seconds": 0.5}]
    for name in "ab":
        (tmp_path / name).write_text(name)
    content = finish(record, {"rule": "a"}, {"documents": 1234, "examples": {}}, done)
    assert content["files"] == {"a": "1", "b": "2"} and content["seconds"] == 1.5
    assert json.loads(record.read_text()) == content == begun(record, {"rule": "a"})
    assert f"clean: already finished in {tmp_path}: 1,234 documents" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"the result of other settings \(extra, rule changed.*choose another --out"):
        begun(record, {"rule": "b", "extra": 1})
    (tmp_path / "a").write_text("")
    with pytest.raises(UsageError, match="a has 0 bytes, not 1 as when it was made; delete the folder"):
        begun(record, {"rule": "a"})
