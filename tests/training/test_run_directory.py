"""What is written down of each start."""

from __future__ import annotations

import json
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from linformer_fairseq.errors import UsageError
from linformer_fairseq.training import run_directory
from linformer_fairseq.training.run_directory import git_state, record_start, run_folder, variables, without_secrets


def test_each_start_is_an_entry_and_says_which_settings_changed(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"optimization": {"lr": [0.1], "max_update": 5}, "copy": "${optimization.max_update}"})
    assert record_start(tmp_path, cfg, 0) == 1
    cfg.optimization.lr = [0.2]
    assert record_start(tmp_path, cfg, 5) == 2
    first, second = json.loads((tmp_path / "environment.json").read_text())
    assert (first["start"], first["updates_before"]) == (1, 0) and "settings_changed" not in first
    assert (second["start"], second["updates_before"]) == (2, 5)
    assert second["settings_changed"] == {"optimization.lr": [[0.1], [0.2]]}
    assert second["packages"]["torch"] and second["host"] and second["python"]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["copy"] == 5  # resolved


def test_a_resumed_run_says_which_settings_that_decide_its_result_are_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = OmegaConf.create({"model": {"projected_length": "128", "local_window": 64}, "common": {"log_interval": 10}})
    record_start(tmp_path, cfg, 0)
    cfg.model.projected_length, cfg.common.log_interval = "64", 50
    record_start(tmp_path, cfg, 5)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["this run goes on with other settings than before: model.projected_length 64 instead of 128"]
    cfg.model.projected_length = "32"
    record_start(tmp_path, cfg, 0)  # from scratch, in the same folder
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_settings_of_every_kind_become_plain() -> None:
    cfg = OmegaConf.create({"model": None, "text": "a"}, flags={"allow_objects": True})
    cfg.model = Namespace(arch="tiny", sizes=(1, 2), path=Path("x"))
    assert run_directory.plain_settings(cfg) == {
        **{"model": {"arch": "tiny", "sizes": [1, 2], "path": "x"}},
        "text": "a",
    }


def test_a_damaged_file_of_starts_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text("[{")
    assert record_start(tmp_path, OmegaConf.create({}), 0) == 1


def test_secrets_are_not_written() -> None:
    environ = {
        **{"SLURM_JOB_ID": "7", "NCCL_DEBUG": "INFO", "CUDA_VISIBLE_DEVICES": "0", "RANK": "1"},
        **{"SLURM_JWT": "x", "SLURM_JOB_COMMENT": "x", "NCCL_PLUGIN_CONF": "x", "TORCH_HUB_AUTHORISATION": "x"},
        **{"TORCH_API_KEY": "x", "HOME": "/root", "MY_PASSWORD": "x", "AWS_SECRET_ACCESS_KEY": "x"},
    }
    assert list(variables(environ)) == ["CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "RANK", "SLURM_JOB_ID"]
    argv = ["fairseq-train", "DATA", "--api-key", "x1", "--hub-token=x2", "+my.password=x3", "--tokens-per-sample", "5"]
    shown = ["fairseq-train", "DATA", "--api-key", "…", "--hub-token=…", "+my.password=…", "--tokens-per-sample", "5"]
    assert without_secrets(argv) == shown
    assert without_secrets(["s3://me:p4ss@w0rd@host/data", "a@b"]) == ["s3://…@host/data", "a@b"]
    assert variables({"MASTER_ADDR": "tcp://me:p4ss@host"}) == {"MASTER_ADDR": "tcp://…@host"}


def test_a_password_in_a_setting_is_neither_written_nor_a_change(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"task": {"data": "s3://me:p4ss@host/data"}})
    for updates in (0, 5):
        record_start(tmp_path, cfg, updates)
    assert not [path for path in tmp_path.iterdir() if "p4ss" in path.read_text()]
    assert json.loads((tmp_path / "environment.json").read_text())[1]["settings_changed"] == {}


def test_git_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert git_state(tmp_path) == {}
    git("init")
    assert git_state(tmp_path) == {}
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "one")
    state = git_state(tmp_path)["git"]
    assert len(state["commit"]) == 40 and state["dirty"] is False
    (tmp_path / "untracked").mkdir()
    assert git_state(tmp_path)["git"]["dirty"] is False
    assert git_state(tmp_path / "untracked") == {}  # as a virtual environment inside a repository
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path)["git"]["dirty"] is True


def test_no_folder_with_no_save(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"checkpoint": {"no_save": True, "save_dir": str(tmp_path / "a")}})
    assert run_folder(cfg) is None and not list(tmp_path.iterdir())


def test_a_save_dir_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cfg = OmegaConf.create({"checkpoint": {"no_save": False, "save_dir": str(tmp_path / "file")}})
    with pytest.raises(UsageError, match="--save-dir .*file cannot be written to"):
        run_folder(cfg)
