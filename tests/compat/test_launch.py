"""One training of two processes, however it is started; always the same one."""

from pathlib import Path

import pytest
import torch

from linformer_fairseq.paths import USER_DIR

EVERY_UPDATE = ("--save-interval-updates", 1, "--max-update", 4)
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", 2)


@pytest.fixture(scope="module")
def spawned(train, tmp_path_factory):
    """Two processes, started by `--distributed-world-size 2`."""
    return train(tmp_path_factory.mktemp("spawned"), *EVERY_UPDATE, "--distributed-world-size", 2)


def assert_same_training(one, other):
    """Two runs with the same losses and, bit by bit, the same parameters in the end."""
    assert one.losses == other.losses and len(one.losses) == 4
    ones, others = one.checkpoint()["model"], other.checkpoint()["model"]
    assert all(torch.equal(ones[name], others[name]) for name in ones)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_with_twice_the_batches(train, spawned, tmp_path):
    alone = train(tmp_path / "alone", *EVERY_UPDATE, "--update-freq", 2)
    assert len(alone.losses) == len(spawned.losses) == 4
    for update in range(1, 5):
        curves = []
        for run in (alone, spawned):
            metrics = run.checkpoint(f"checkpoint_1_{update}.pt")["extra_state"]["metrics"]["train"]
            (loss,) = (state for _, name, _, state in metrics if name == "loss")
            curves.append(float(loss["sum"] / loss["count"]))
        assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    assert [update for update, _ in alone.losses] == [update for update, _ in spawned.losses]


@pytest.mark.slow
def test_torchrun_is_the_same_training(train, spawned, tmp_path):
    """And not two of them in one folder, as with fairseq alone."""
    joined = train(tmp_path / "run", *EVERY_UPDATE, launcher=TORCHRUN)
    assert joined.output.count("training on 2 devices") == 1
    assert_same_training(joined, spawned)


@pytest.mark.slow
def test_an_address_is_the_same_training(train, spawned, tmp_path):
    """Without GPUs, fairseq would start no process, train nothing and report success."""
    rendezvous = ("--distributed-init-method", f"file://{tmp_path}/meeting")
    met = train(tmp_path / "run", *EVERY_UPDATE, *rendezvous, "--distributed-world-size", 2)
    assert_same_training(met, spawned)


@pytest.mark.slow
def test_srun_is_the_same_training(train, spawned, srun, tmp_path):
    launcher, environment = srun
    joined = train(tmp_path / "run", *EVERY_UPDATE, launcher=launcher, env=environment)
    assert joined.output.count("training on 2 devices") == 1
    assert_same_training(joined, spawned)


def test_the_log_of_two_processes_has_no_warnings(spawned):
    """Not those that noise.py names, and none of semaphores that a data loader has left behind."""
    assert "Warning" not in spawned.output


@pytest.mark.slow
def test_a_dead_process_is_noticed(run_fairseq, tiny_roberta, srun, tmp_path):
    """Rank 1 finds no validation set. Rank 0 would wait half an hour for it, and run_fairseq waits for five minutes."""
    (tmp_path / "data0").symlink_to(tiny_roberta[0])
    (tmp_path / "data1").mkdir()
    for file in ("dict.txt", "train.bin", "train.idx"):
        (tmp_path / "data1" / file).symlink_to(Path(tiny_roberta[0]) / file)
    argv = ("fairseq-train", tmp_path / "data{rank}", *tiny_roberta[1:], "--save-dir", tmp_path / "run")
    launcher, environment = srun
    ended = run_fairseq(*launcher, *argv, *EVERY_UPDATE, env=environment, check=False)
    assert ended.returncode == 1
    assert "Dataset not found: valid" in ended.stdout and "Connection closed by peer" in ended.stdout


def test_a_wrong_launch_is_answered_in_one_sentence(train, tmp_path):
    refused = train(tmp_path, "--distributed-world-size", 2, "--distributed-no-spawn", check=False)
    assert refused.returncode == 1
    assert refused.output.strip().splitlines()[-1].startswith("error: --distributed-no-spawn")
    assert "Traceback" not in refused.output and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_gathers_the_logs_of_fairseq_validate(run_fairseq, spawned, tiny_data):
    """fairseq collects them with torch.cuda."""
    argv = [
        *("fairseq-validate", tiny_data, "--path", spawned.save_dir / "checkpoint_last.pt", "--task", "masked_lm"),
        *("--batch-size", 8, "--required-batch-size-multiple", 1, "--log-format", "json", "--cpu"),
        *("--user-dir", USER_DIR),
    ]
    alone = run_fairseq(*argv)
    together = run_fairseq(*argv, "--distributed-world-size", 2)
    loss = [line.split('"valid_loss": ')[1][:7] for line in alone.stdout.splitlines() if "valid_loss" in line]
    assert loss and loss[0] in together.stdout
