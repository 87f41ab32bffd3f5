"""Records of finished work, and the refusal to mix settings in one folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io import records
from linformer_fairseq.io.files import digest
from linformer_fairseq.io.records import begun, finish, intact, stamps


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
    for name in "ab":
        (tmp_path / name).write_text(name)
    files = {name: digest(tmp_path / name) for name in "ab"}
    done = [{"files": {"a": files["a"]}, "seconds": 1.0}, {"files": {"b": files["b"]}, "seconds": 0.5}]
    content = finish(record, {"rule": "a"}, {"documents": 1234, "examples": {}}, done)
    assert content["files"] == files and content["seconds"] == 1.5
    assert records.read_record(record) == content == begun(record, {"rule": "a"})
    assert f"clean: already finished in {tmp_path}: 1,234 documents" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"the result of other settings \(extra, rule changed.*choose another --out"):
        begun(record, {"rule": "b", "extra": 1})


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_record_that_a_loss_of_power_has_emptied(tmp_path: Path, content: str) -> None:
    record = tmp_path / "clean.json"
    finish(record, {"rule": "a"}, {"documents": 1}, [])
    record.write_text(content)
    assert begun(record, {"rule": "a"}) is None  # its shards tell what is done
    (tmp_path / ".work/clean.settings").write_text(content)
    with pytest.raises(UsageError, match="clean.settings cannot be read.*delete"):
        begun(record, {"rule": "a"})


def test_a_record_with_a_wrong_character_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    records.write_record(path, {"documents": 1234, "share": 0.1, "why": {"é": (1, None)}})
    assert records.read_record(path) == {"documents": 1234, "share": 0.1, "why": {"é": [1, None]}}
    path.write_text(path.read_text().replace("1234", "1334"))
    assert records.read_record(path) is None


def test_finished_work_of_other_input_is_refused(tmp_path: Path) -> None:
    source, record = tmp_path / "source", tmp_path / "out/clean.json"
    source.write_text("text")
    begun(record, {}, inputs=[source])
    finish(record, {}, {}, [{"files": {}, "seconds": 1.0, "inputs": records.examined([source])}])
    assert begun(record, {}, inputs=[source])
    source.write_text("next")
    with pytest.raises(records.StaleOutput, match=f"the result of another {source}"):
        begun(record, {}, inputs=[source])


@pytest.mark.parametrize("change", ["emptied", "removed", "edited", "restored", "copied"])
def test_files_are_those_of_the_record(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By size and time, else by hash; an edit that keeps both is found where every file is read."""
    path = tmp_path / "a"
    path.write_text("text")
    content = {"files": {"a": digest(path)}, "stamps": stamps(tmp_path, ["a"])}
    before = path.stat()
    assert intact(tmp_path, content) and not intact(tmp_path, None)
    if change == "removed":
        path.unlink()
    else:
        path.write_text({"emptied": "", "edited": "next", "restored": "next", "copied": "text"}[change])
    if change == "restored":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif path.exists():
        os.utime(path, ns=(1, 1))
    assert intact(tmp_path, content) is (change in ("restored", "copied"))
    monkeypatch.setattr(records, "always_hash", True)
    assert intact(tmp_path, content) is (change == "copied")
