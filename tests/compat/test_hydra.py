"""fairseq-hydra-train: the plugin brings the repairs in time, and where it is missing, most of them still come."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import fairseq_cli.train
import pytest
import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, OmegaConf

from linformer_fairseq.compat import launch
from linformer_fairseq.training import hooks

USER_DIR = Path(__file__).resolve().parents[2] / "linformer_fairseq"

# The model and the flags of conftest.py.
TINY = """\
# @package _group_
common: {log_format: json, log_interval: 1, cpu: true}
task: {_name: masked_lm, data: "???", sample_break_mode: complete, tokens_per_sample: 64}
criterion: masked_lm
dataset: {batch_size: 16, required_batch_size_multiple: 1}
optimizer: {_name: adam}
lr_scheduler: {_name: fixed}
optimization: {lr: [0.001], max_update: 4}
checkpoint: {no_epoch_checkpoints: true}
model:
  {_name: roberta, encoder_layers: 1, encoder_embed_dim: 32, encoder_ffn_embed_dim: 64, encoder_attention_heads: 2,
   max_positions: 64, dropout: 0, attention_dropout: 0}
"""

HydraTrain = Callable[..., CompletedProcess[str]]


@pytest.fixture
def hydra_train(run_fairseq: HydraTrain, tiny_data: Path, tmp_path: Path) -> HydraTrain:
    """Train the RoBERTa of the other tests by fairseq-hydra-train."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def run(*overrides: str, launcher: tuple[object, ...] = (), check: bool = True) -> CompletedProcess[str]:
        return run_fairseq(
            *(*launcher, "fairseq-hydra-train", "--config-dir", tmp_path, "--config-name", "tiny"),
            *(f"task.data={tiny_data}", f"common.user_dir={USER_DIR}", f"checkpoint.save_dir={tmp_path}/run"),
            *(f"hydra.run.dir={tmp_path}/hydra", *overrides),
            check=check,
        )

    return run


def losses(run: CompletedProcess[str]) -> list[float]:
    """The loss of every update."""
    lines = [line for line in run.stdout.splitlines() if "[train_inner][INFO]" in line]
    return [float(line.split('"loss": "')[1].split('"')[0]) for line in lines]


def test_bfloat16_and_resuming_with_amp(hydra_train: HydraTrain) -> None:
    for flag, max_update, updates in (("bf16", 3, 3), ("amp", 5, 2)):
        run = hydra_train(f"common.{flag}=true", f"optimization.max_update={max_update}")
        assert len(losses(run)) == updates
        assert run.stdout.count("computing in bfloat16 (CPU autocast)") == 1


def test_fp16_is_refused_before_data_is_looked_for(hydra_train: HydraTrain) -> None:
    refused = hydra_train("common.fp16=true", "task.data=/nowhere", check=False)
    assert refused.returncode == 1
    assert refused.stdout.strip().splitlines()[-1].startswith("error: --fp16")


@pytest.mark.parametrize("section", ["model", "lr_scheduler"])
def test_a_file_that_chooses_none_is_refused_in_a_sentence(
    section: str, hydra_train: HydraTrain, tmp_path: Path
) -> None:
    before, _, after = TINY.partition(f"{section}:")
    (tmp_path / "tiny.yaml").write_text(before + after.partition("\n" if section == "lr_scheduler" else "0}\n")[2])
    refused = hydra_train(check=False)
    assert refused.returncode == 1 and not (tmp_path / "run").exists()
    assert refused.stdout.strip().splitlines()[-1].startswith(f"error: {section}: none is chosen; give one, such as ")


@pytest.mark.slow
def test_two_processes_are_the_same_training(
    hydra_train: HydraTrain, train: Callable[..., Any], tmp_path: Path
) -> None:
    """Spawned, which only the plugin makes possible, and joined by torchrun."""
    spawned = train(tmp_path / "spawned", "--max-update", 4, "--distributed-world-size", 2)
    overrides = ("checkpoint.no_save=true",)
    for run in (
        hydra_train("distributed_training.distributed_world_size=2", *overrides),
        hydra_train(*overrides, launcher=("torchrun", "--standalone", "--nproc-per-node", 2)),
    ):
        assert losses(run) == [loss for _, loss in spawned.losses]
        assert run.stdout.count("training on 2 devices") == 1


@pytest.mark.slow
def test_each_run_of_a_sweep_begins_as_in_a_process_of_its_own(hydra_train: HydraTrain, tmp_path: Path) -> None:
    """The first run has the better loss, and ends by its patience."""
    flags = ("checkpoint.patience=1", "dataset.validate_interval_updates=1", "checkpoint.save_interval_updates=1")
    where = "checkpoint.save_dir=" + str(tmp_path / "sweep-${hydra:job.num}")
    sweeping = ("optimization.lr=[0.001],[0]", where, f"hydra.sweep.dir={tmp_path}", *flags, "--multirun")
    sweep = hydra_train(*sweeping)
    alone = hydra_train("optimization.lr=[0]", *flags)
    assert losses(sweep)[-len(losses(alone)) :] == losses(alone) and len(losses(alone)) == 2
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        ones, others = (torch.load(tmp_path / run / name, weights_only=False) for run in ("sweep-1", "run"))
        for key in ("best", "val_loss", "linformer_fairseq"):
            assert ones["extra_state"][key] == others["extra_state"][key]
    assert "0.001" not in (tmp_path / "sweep-1/run/logs/rank-0.log").read_text()
    again = hydra_train(*sweeping)
    assert again.stdout.count("so there is nothing to do") == 2


@pytest.mark.parametrize(
    ("folder", "model"),
    [
        *((name, "model={_name: linformer_roberta_tiny}") for name in ("empty", "a-file", "other-name")),
        ("missing", "model.dropout=0"),  # fairseq's own roberta
    ],
)
def test_a_user_dir_that_is_not_ours_is_refused_in_a_sentence(
    hydra_train: HydraTrain, tmp_path: Path, folder: str, model: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a-file").touch()
    (tmp_path / "other-name").symlink_to(USER_DIR)
    refused = hydra_train(f"common.user_dir={tmp_path / folder}", model, check=False)
    assert refused.returncode == 1
    last = refused.stdout.strip().splitlines()[-1]
    assert last.startswith("error: ") and str(tmp_path / folder) in last and f"{USER_DIR}" in last


def test_the_plugin_leaves_other_programs_of_hydra_alone() -> None:
    """They would wait for seconds, or fail, if it imported fairseq."""
    program = "from hydra.core.plugins import Plugins; Plugins.instance(); import sys; print('fairseq' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=USER_DIR, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "False" and not done.stderr


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[DictConfig], None]:
    """What `fairseq_cli.train.main` calls next when the user-dir is imported inside it, without the plugin."""
    monkeypatch.setattr(fairseq_cli.train, "add_defaults", lambda cfg: None)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    launch.catch_up_in_hydra(hooks.around)
    add_defaults: Callable[[DictConfig], None] = fairseq_cli.train.add_defaults
    return add_defaults


def configuration(**common: bool) -> DictConfig:
    """The parts of fairseq's configuration that count here, with its defaults on a machine without GPUs."""
    training = {"init_method": None, "world_size": 1, "num_procs": 1, "rank": 0, "no_spawn": False, "port": -1}
    return OmegaConf.create(
        {
            "common": {"tpu": False, "cpu": True, "fp16": False, "memory_efficient_fp16": False, **common},
            "distributed_training": {
                **{f"distributed_{name}": value for name, value in training.items()},
                **{"device_id": 0, "distributed_backend": "nccl"},
            },
        }
    )


def test_without_the_plugin_a_process_still_joins_torchrun(
    late: Callable[[DictConfig], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[DictConfig] = []
    monkeypatch.setattr(distributed_utils, "distributed_init", joined.append)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    late(configuration())
    (training,) = (cfg.distributed_training for cfg in joined)
    assert (training.distributed_world_size, training.distributed_rank) == (2, 1)
    assert (training.distributed_backend, training.distributed_init_method) == ("gloo", "env://")


def test_without_the_plugin_a_process_takes_its_gpu_before_nccl_starts(
    late: Callable[[DictConfig], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two GPUs that a monkeypatch pretends, as fairseq's own start does."""
    done: list[object] = []
    for name, value in {"is_available": True, "device_count": 2, "get_arch_list": ["compute_70"]}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="GPU", major=8, minor=0))
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(distributed_utils, "distributed_init", lambda cfg: done.append("connected"))
    environment = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    late(configuration(cpu=False))
    assert done == [1, "connected"]


def test_without_the_plugin_one_process_stays_alone(
    late: Callable[[DictConfig], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed_utils, "distributed_init", lambda cfg: pytest.fail("there is nobody to join"))
    late(configuration())


def test_without_the_plugin_fp16_is_still_refused(late: Callable[[DictConfig], None]) -> None:
    with pytest.raises(SystemExit, match="error: --fp16"):
        late(configuration(fp16=True))
