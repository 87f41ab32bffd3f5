"""What is wrong with a run is said in one sentence, before it is queued."""

from __future__ import annotations

from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.launch.training_run import check_save_dir, find_data, training_run


def make_data(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names or ("dict.txt", "train.bin", "train.idx", "valid.bin", "valid.idx"):
        (folder / name).touch()
    return folder


def test_one_folder_or_its_shards(tmp_path: Path) -> None:
    one = make_data(tmp_path / "one")
    assert find_data(str(one)) == str(one)
    two = [make_data(tmp_path / "many/shard0"), make_data(tmp_path / "many/shard1", "train.bin", "train.idx")]
    joined = ":".join(map(str, two))
    assert find_data(str(tmp_path / "many")) == find_data(joined) == joined


@pytest.mark.parametrize("missing", ["dict.txt", "train.idx", "valid.bin"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = make_data(tmp_path / "data")
    (folder / missing).unlink()
    with pytest.raises(UsageError, match=f"{missing} is missing"):
        find_data(str(folder))


def test_missing_data_names_the_script_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder .*nothing; make it with `linformer prepare run`"):
        find_data(str(tmp_path / "nothing"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written to: Not a directory"):
        check_save_dir(tmp_path / "file/run", 0)


def test_too_little_disk(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has [\d.]+ GB of free disk space, less than 1e\+09: .*--free-gb"):
        check_save_dir(tmp_path, 1e9)
    check_save_dir(tmp_path, 0)
    assert {file.name for file in tmp_path.iterdir()} == {"logs"}


@pytest.mark.parametrize("size", ["ten", "-1", "nan"])
def test_a_size_that_is_no_number(tmp_path: Path, size: str) -> None:
    data = make_data(tmp_path / "data")
    environ = {"RECIPE": "tiny_n512_k128", "DATA": str(data), "SAVE_DIR": str(tmp_path / "run"), "FREE_GB": size}
    with pytest.raises(UsageError, match=f"FREE_GB={size} is not a number"):
        training_run(environ, [])


def test_the_command_has_recipe_and_flags(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    environ = {"RECIPE": "tiny_n512_k128", "DATA": str(data), "SAVE_DIR": str(tmp_path / "run"), "FREE_GB": "0"}
    save_dir, argv = training_run(environ, ["--max-update", "9"])
    assert save_dir == tmp_path / "run" and argv[argv.index("--save-dir") + 1] == str(save_dir)
    assert argv[:2] == ["fairseq-train", str(data)] and argv[-2:] == ["--max-update", "9"]
    with pytest.raises(UsageError, match="RECIPE=base is neither a file nor one of base_n4096_k256, base_n512_k128"):
        training_run({**environ, "RECIPE": "base"}, [])
