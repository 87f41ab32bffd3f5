"""A training that is killed and resumed is, bit by bit, the training that was not."""

import os
import signal
import subprocess

import pytest
import torch

# 12 updates per epoch, or 6 with two processes. Dropout is on, so that random numbers have to be right as well.
FLAGS = ("--max-update", 30, "--save-interval-updates", 5, "--dropout", 0.1, "--attention-dropout", 0.1)


def kill_after_update(command: list[str], environ: dict[str, str], update: int) -> str:
    """Start a training, kill -9 all its processes when it logs this update, and return its log so far."""
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as training:
        assert training.stdout is not None
        log = []
        for line in training.stdout:
            log.append(line)
            if f'"num_updates": "{update}"' in line:
                os.killpg(training.pid, signal.SIGKILL)
                break
    assert training.returncode == -signal.SIGKILL, "".join(log)
    return "".join(log)


@pytest.mark.parametrize("processes", [1, 2])
def test_kill_and_resume(train, training_command, tmp_path, processes):
    flags = (*FLAGS, "--distributed-world-size", processes)
    whole = train(tmp_path / "whole", *flags).succeeded()
    assert len(whole.losses) == 30

    # In the middle of the first epoch; with two processes, in the middle of the second.
    log = kill_after_update(*training_command(tmp_path / "killed", *flags), update=8)
    assert "done training" not in log
    resumed = train(tmp_path / "killed", *flags).succeeded()

    first = int(resumed.updates[0]["num_updates"])
    assert 5 < first < 30
    assert first % 5 == 1, "resumed from the last checkpoint before the kill"
    kept = ("num_updates", "loss", "gnorm", "lr", "wpb")
    assert [[update[key] for key in kept] for update in resumed.updates] == [
        [update[key] for key in kept] for update in whole.updates[first - 1 :]
    ]
    one, other = whole.checkpoint(), resumed.checkpoint()
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    for number, moments in one["last_optimizer_state"]["state"].items():
        for name, moment in moments.items():
            assert torch.equal(
                torch.as_tensor(moment), torch.as_tensor(other["last_optimizer_state"]["state"][number][name])
            )
    assert one["extra_state"]["val_loss"] == other["extra_state"]["val_loss"]
    assert one["extra_state"]["train_iterator"] == other["extra_state"]["train_iterator"]
