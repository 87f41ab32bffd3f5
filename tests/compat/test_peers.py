"""Every way to start a training, with and without GPUs: where does a process find its place?"""

import socket
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from linformer_fairseq.compat.peers import Peers, find_peers
from linformer_fairseq.errors import UsageError

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
# Task 5 of `srun --nodes 2 --ntasks-per-node 4`, as Slurm 22.05 sets them.
SRUN = {
    **{
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_STEP_NODELIST": "node[1-2]",
    },
    **{"SLURM_NNODES": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"},
    **{"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"},
}
# Task 1 of `srun --nodes 2 --ntasks-per-node 1`.
SRUN_PER_NODE = {
    **SRUN,
    **{"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"},
}
# The batch script itself, `sbatch --nodes 1 --ntasks 8`.
BATCH = {"SLURM_JOB_ID": "77", "SLURM_NNODES": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}


def flags(**given: Any) -> DictConfig:
    """The flags of fairseq with their defaults on a machine without GPUs, and `given`."""
    defaults = {"init_method": None, "world_size": 1, "num_procs": 1, "rank": 0, "no_spawn": False, "port": -1}
    unknown = given.keys() - defaults.keys() - {"device_id"}
    assert not unknown
    named = {f"distributed_{name}": given.get(name, default) for name, default in defaults.items()}
    return OmegaConf.create({**named, "device_id": given.get("device_id", 0)})


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A `scontrol` that knows two hosts, first on PATH."""
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def refusal(training: DictConfig, gpus: int = 0, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as refused:
        find_peers(training, gpus, environ or {})
    return str(refused.value)


@pytest.mark.parametrize("world_size", [0, -1])
def test_fewer_than_one_process_is_refused(world_size):
    assert refusal(flags(world_size=world_size)).startswith(f"--distributed-world-size {world_size}: must be at least")


@pytest.mark.parametrize("gpus", [0, 1])
@pytest.mark.parametrize("environ", [{}, BATCH, {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}])
def test_one_process_has_no_peers(gpus, environ):
    assert find_peers(flags(), gpus, environ) is None


@pytest.mark.parametrize("world_size", [1, 2, 8], ids="--distributed-world-size {}".format)
@pytest.mark.parametrize(("gpus", "device_id"), [(0, 0), (4, 1), (1, 0)])
def test_torchrun_decides(world_size, gpus, device_id):
    """With one GPU for each process, their own count of GPUs says 1, as it does without GPUs."""
    assert find_peers(flags(world_size=world_size), gpus, TORCHRUN) == Peers("env://", 8, 5, device_id)


def test_torchrun_wins_over_an_address():
    """Otherwise each of its processes would start all processes once more."""
    given = flags(world_size=8, init_method="tcp://host:1")
    assert find_peers(given, 0, TORCHRUN) == Peers("env://", 8, 5)


@pytest.mark.parametrize("environ", [{}, TORCHRUN, SRUN])
def test_everything_by_hand(environ):
    given = flags(world_size=2, rank=1, no_spawn=True, init_method="tcp://host:1")
    assert find_peers(given, 0, environ) == Peers("tcp://host:1", 2, 1)


@pytest.mark.parametrize("world_size", [1, 8])
@pytest.mark.parametrize(("gpus", "device_id"), [(0, 0), (4, 1), (1, 0)])
def test_srun_with_one_process_per_task(scontrol, world_size, gpus, device_id):
    found = find_peers(flags(world_size=world_size, port=12345), gpus, SRUN)
    assert found == Peers("tcp://node1:12345", 8, 5, device_id)


def test_srun_starts_as_many_processes_per_node_as_there_are_gpus(scontrol):
    found = find_peers(flags(world_size=4, port=12345), 4, SRUN_PER_NODE)
    assert found == Peers("tcp://node1:12345", world_size=8, rank=4, to_spawn=4)


def test_srun_shares_the_processes_among_nodes_without_gpus(scontrol):
    found = find_peers(flags(world_size=6, port=12345), 0, SRUN_PER_NODE)
    assert found == Peers("tcp://node1:12345", world_size=6, rank=3, to_spawn=3)
    assert find_peers(flags(port=12345), 0, SRUN_PER_NODE) == Peers("tcp://node1:12345", 2, 1)


def test_srun_keeps_an_address_that_was_given():
    assert find_peers(flags(init_method="tcp://host:1"), 0, SRUN) == Peers("tcp://host:1", 8, 5)


def test_srun_on_one_node_needs_no_scontrol(monkeypatch):
    monkeypatch.setenv("PATH", "")
    environ = {**SRUN, "SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1"}
    assert find_peers(flags(port=12345), 0, environ) == Peers("tcp://localhost:12345", 8, 5)


def test_srun_without_scontrol_asks_for_an_address(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = find_peers(flags(port=12345), 0, {**SRUN, "MASTER_ADDR": "node1"})
    assert found == Peers("tcp://node1:12345", 8, 5)
    assert "--distributed-init-method" in refusal(flags(), 0, SRUN)


def test_tasks_agree_on_a_port_and_the_next_start_takes_another(scontrol):
    def address(**changes: str) -> str:
        peers = find_peers(flags(), 0, {**SRUN, **changes})
        assert peers is not None
        return peers.init_method

    assert address(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0") == address()
    different = {address(), address(SLURM_STEP_ID="1"), address(SLURM_RESTART_COUNT="1"), address(SLURM_JOB_ID="78")}
    assert len(different) == 4
    assert all(10000 <= int(one.rsplit(":")[-1]) < 32768 for one in different)


def test_a_batch_script_joins_nobody_unless_the_flags_ask_for_all_its_tasks():
    """SLURM_NTASKS alone does not mean that srun has started anything."""
    joined = find_peers(flags(world_size=8, port=12345), 0, BATCH)
    assert joined == Peers("tcp://localhost:12345", 8, 0)
    started = find_peers(flags(world_size=2, port=12345), 0, BATCH)
    assert started == Peers("tcp://localhost:12345", 2, 0, to_spawn=2)


def test_this_machine_takes_a_free_port():
    found = find_peers(flags(world_size=2), 0, {})
    assert found is not None and (found.world_size, found.rank, found.to_spawn) == (2, 0, 2)
    with socket.socket() as server:
        server.bind(("localhost", int(found.init_method.removeprefix("tcp://localhost:"))))


@pytest.mark.parametrize(("gpus", "num_procs", "to_spawn"), [(0, 1, 4), (0, 2, 2), (2, 2, 2), (8, 8, 4)])
def test_processes_per_machine_with_an_address(gpus, num_procs, to_spawn):
    given = flags(world_size=4, num_procs=num_procs, init_method="tcp://host:1")
    assert find_peers(given, gpus, {}) == Peers("tcp://host:1", 4, 0, to_spawn=to_spawn)


def test_second_machine_with_an_address():
    given = flags(world_size=4, num_procs=2, rank=2, init_method="tcp://host:1")
    assert find_peers(given, 0, {}) == Peers("tcp://host:1", 4, 2, to_spawn=2)


def test_more_gpus_than_there_are():
    message = refusal(flags(world_size=4), gpus=2)
    assert "--distributed-world-size 4" in message and "2 GPUs" in message


def test_more_ranks_than_the_world_has():
    message = refusal(flags(world_size=4, rank=2, init_method="tcp://host:1"))
    assert "--distributed-rank 2" in message and "--distributed-num-procs" in message


def test_no_spawn_without_an_address():
    message = refusal(flags(world_size=2, no_spawn=True))
    assert "--distributed-init-method" in message and "--distributed-rank" in message


def test_slurm_on_this_page_is_slurms():
    """The variables above are what the launch code reads; a misspelt one would test nothing."""
    from linformer_fairseq.compat import peers

    source = Path(peers.__file__).read_text()
    assert {name for name in SRUN if name not in source} == set()
