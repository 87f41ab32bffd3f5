"""One training of two processes, however it is started, and always the same one."""

import re
import sys
from pathlib import Path

import pytest
import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf

import linformer_fairseq
from linformer_fairseq.compat import launch

EVERY_UPDATE = ("--save-interval-updates", 1, "--max-update", 4)
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", 2)

# Starts its arguments for two ranks at once, as `srun --ntasks 2` would; `{rank}` in an argument is the rank.
LIKE_SRUN = """
import os, subprocess, sys
ranks = ("0", "1")
tasks = [
    subprocess.Popen(
        [word.replace("{rank}", rank) for word in sys.argv[1:]],
        env={**os.environ, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
    )
    for rank in ranks
]
sys.exit(max(abs(task.wait()) for task in tasks))
"""
SRUN = (sys.executable, "-c", LIKE_SRUN)
SRUN_ENVIRONMENT = {
    **{"SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "here", "SLURM_STEP_NODELIST": "here"},
    **{"SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"},
    "SLURM_NODEID": "0",
}


@pytest.fixture(scope="module")
def spawned(train, tmp_path_factory):
    """Two processes, started by `--distributed-world-size 2`."""
    return train(tmp_path_factory.mktemp("spawned"), *EVERY_UPDATE, "--distributed-world-size", 2).succeeded()


def assert_same_training(one, other):
    """Both had one training of two devices, the same losses and, bit by bit, the same parameters in the end."""
    for run in (one, other):
        assert len(run.losses) == 4 and run.output.count("training on 2 devices") == 1
    assert one.losses == other.losses
    ones, others = one.checkpoint()["model"], other.checkpoint()["model"]
    assert all(torch.equal(ones[name], others[name]) for name in ones)


def average_loss(run, update: int) -> float:
    """Training loss up to this update, with all its digits."""
    metrics = run.checkpoint(f"checkpoint_1_{update}.pt")["extra_state"]["metrics"]["train"]
    (loss,) = (state for _, name, _, state in metrics if name == "loss")
    return float(loss["sum"] / loss["count"])


def test_two_processes_learn_what_one_learns_with_twice_the_batches(train, spawned, tmp_path):
    alone = train(tmp_path, *EVERY_UPDATE, "--update-freq", 2).succeeded()
    for update in range(1, 5):
        assert average_loss(alone, update) == pytest.approx(average_loss(spawned, update), abs=1e-4)
    assert [update["wpb"] for update in alone.updates] == [update["wpb"] for update in spawned.updates]


@pytest.mark.parametrize("world_size", [(), ("--distributed-world-size", 2)], ids=["no flag", "flag"])
def test_torchrun_is_the_same_training(train, spawned, tmp_path, world_size):
    assert_same_training(train(tmp_path, *EVERY_UPDATE, *world_size, launcher=TORCHRUN).succeeded(), spawned)


def test_srun_is_the_same_training(train, spawned, tmp_path):
    joined = train(tmp_path, *EVERY_UPDATE, launcher=SRUN, environ=SRUN_ENVIRONMENT).succeeded()
    assert_same_training(joined, spawned)


def test_an_address_is_the_same_training(train, spawned, tmp_path):
    """Without GPUs, fairseq would start no process, train nothing and report success."""
    address = ("--distributed-init-method", f"file://{tmp_path}/meeting", "--distributed-world-size", 2, "--cpu")
    assert_same_training(train(tmp_path / "run", *EVERY_UPDATE, *address).succeeded(), spawned)


def test_legacy_ddp_is_the_same_training(train, spawned, tmp_path):
    legacy = ("--ddp-backend", "legacy_ddp", "--distributed-world-size", 2)
    assert train(tmp_path, *EVERY_UPDATE, *legacy).succeeded().losses == spawned.losses


def test_the_log_of_two_processes_has_no_warnings(spawned):
    """Those of a dead data loader and of a deprecated DDP argument among them."""
    assert "Warning" not in spawned.output and "leaked" not in spawned.output


def test_a_dead_process_is_noticed(run_fairseq, tiny_roberta, tmp_path):
    """Rank 1 finds no data. Rank 0 must not wait half an hour for it (run_fairseq waits three minutes)."""
    (tmp_path / "data0").symlink_to(tiny_roberta[0])
    ended = run_fairseq(
        *(*SRUN, "fairseq-train", tmp_path / "data{rank}", *tiny_roberta[1:], "--save-dir", tmp_path / "run"),
        *EVERY_UPDATE,
        environ=SRUN_ENVIRONMENT,
    )
    assert ended.returncode == 1
    assert "Connection closed by peer" in ended.stderr and "data1/dict.txt" in ended.stderr


def test_fairseq_validate_gathers_the_logs_of_two_processes(run_fairseq, spawned, tiny_data):
    """fairseq collects them with torch.cuda."""
    argv = [
        *("fairseq-validate", tiny_data, "--path", spawned.save_dir / "checkpoint_last.pt", "--task", "masked_lm"),
        *("--batch-size", 8, "--required-batch-size-multiple", 1, "--skip-invalid-size-inputs-valid-test"),
        *("--log-format", "json", "--user-dir", Path(linformer_fairseq.__file__).parent),
    ]
    alone, together = run_fairseq(*argv), run_fairseq(*argv, "--distributed-world-size", 2)
    assert alone.returncode == together.returncode == 0, together.stderr
    found = [set(re.findall(r'"valid_loss": "(.*?)"', run.stdout)) for run in (alone, together)]
    assert len(found[0]) == 1 and found[0] == found[1]


def test_a_wrong_launch_is_one_sentence(train, tmp_path):
    refused = train(tmp_path, "--distributed-world-size", 2, "--distributed-no-spawn")
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("error: --distributed-no-spawn")
    assert "Traceback" not in refused.stderr and not list(tmp_path.iterdir())


@pytest.fixture
def late_hydra(monkeypatch):
    """`fairseq_cli.train.add_defaults` as it is when a user-dir is imported inside `fairseq_cli.train.main`."""
    import fairseq_cli.train

    monkeypatch.setattr(fairseq_cli.train, "add_defaults", lambda cfg: None)
    launch.catch_up_in_hydra()
    return fairseq_cli.train.add_defaults


def configuration(**common):
    """What fairseq-hydra-train hands to its main function on a machine without GPUs."""
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


def test_a_late_import_still_joins_torchrun(late_hydra, monkeypatch):
    joined = []
    monkeypatch.setattr(distributed_utils, "distributed_init", joined.append)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    late_hydra(configuration())
    (cfg,) = joined
    training = cfg.distributed_training
    assert (training.distributed_world_size, training.distributed_rank) == (2, 1)
    assert (training.distributed_backend, training.distributed_init_method) == ("gloo", "env://")


def test_a_late_import_leaves_one_process_alone(late_hydra, monkeypatch):
    monkeypatch.setattr(distributed_utils, "distributed_init", lambda cfg: pytest.fail("joined nobody"))
    late_hydra(configuration())


def test_a_late_import_still_refuses_fp16(late_hydra):
    with pytest.raises(SystemExit, match="--fp16"):
        late_hydra(configuration(fp16=True))
