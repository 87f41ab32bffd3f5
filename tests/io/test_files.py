"""Files that are written atomically, and what killed processes leave of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import DAY, check_folder, fingerprint, replace_when_done, sweep, write_json
from linformer_fairseq.io.processes import own_name


def partial_file(folder: Path, name: str, process: str, age: float = 0) -> Path:
    """A partial file as another process leaves it."""
    path = folder / f".{name}.{process}.partial"
    path.touch()
    os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    return path


def ended_process() -> str:
    """The name of a process that has ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, own_name().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader, "rb") as file:
        return file.read().decode()


def test_sweep_removes_files_of_dead_processes_only(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    dead = partial_file(tmp_path / "train", "a.parquet", ended_process())
    elsewhere = partial_file(tmp_path, "b.parquet", "node7.1-1")
    forgotten = partial_file(tmp_path, "c.parquet", "node7.1-1", age=DAY + 60)
    with replace_when_done(tmp_path / "d.parquet") as ours:
        ours.touch()
        sweep(tmp_path)
        assert ours.exists()
    assert elsewhere.exists() and not dead.exists() and not forgotten.exists()
    assert (tmp_path / "d.parquet").exists()


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), replace_when_done(path) as partial:
        partial.write_text("half")
        _ = 1 / 0
    assert path.read_text() == '{\n "a": 1\n}\n' and os.listdir(tmp_path) == ["a.json"]


def test_a_folder_replaces_a_folder_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in ("old", "new"):
        with replace_when_done(path) as partial:
            partial.mkdir()
            (partial / content).touch()
    assert os.listdir(path) == ["new"] and os.listdir(tmp_path) == ["folder"]
    with pytest.raises(UsageError, match="folder exists; choose another target, or replace it with --force"):
        with replace_when_done(path, force=False):
            pass


def test_a_fingerprint_sees_size_and_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    found = set()
    for content in (b"", b"a" * 200_000, b"b" + b"a" * 199_999, b"a" * 199_999 + b"b", b"a" * 200_001):
        path.write_bytes(content)
        found |= {fingerprint(path), fingerprint(path, parts=3, width=100)}
    assert len(found) == 9  # of the empty file there is one


@pytest.mark.parametrize("address", ["s3://bucket/out", "hf://datasets/x", "file:///x"])
def test_an_address_is_no_output_folder(address: str) -> None:
    with pytest.raises(UsageError, match="goes to a folder of this machine"):
        check_folder(Path(address))
    check_folder(Path("c:d/e"))
