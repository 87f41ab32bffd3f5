"""Which processes train together: found from the configuration and the environment alone, nothing is started.

fairseq counts GPUs to know how many processes there are. Without any, two processes fail on an assertion or, with
`--distributed-init-method`, train nothing at all. And where no process sees more than one device, those of torchrun
and srun each train for themselves, all into the same `--save-dir`.
"""

import socket
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from omegaconf import DictConfig

from linformer_fairseq.errors import UsageError


@dataclass(frozen=True)
class Peers:
    """The place of this process among those that train together."""

    init_method: str  # their rendezvous, as torch.distributed understands it
    world_size: int
    rank: int  # of this process, or of the first one that it starts
    device_id: int = 0  # GPU of this process
    to_spawn: int = 0  # number of processes to start here; 0 if this process itself trains


def find_peers(training: DictConfig, gpus: int, environ: Mapping[str, str]) -> Peers | None:
    """Where this process belongs, by fairseq's `distributed_training` settings; None for a run of one process.

    A launcher that has started several processes decides (torchrun, then srun), then the flags, then the GPUs of
    this machine (`gpus`; 0 for a run on CPUs). `--distributed-no-spawn` and `--distributed-init-method` override all.
    UsageError if the flags contradict each other, or ask for no process or more GPUs than there are.
    """
    rendezvous, world_size = training.distributed_init_method, training.distributed_world_size
    if world_size < 1:
        raise UsageError(f"--distributed-world-size {world_size}: must be at least 1, the number of processes")
    if rendezvous is not None and training.distributed_no_spawn:
        return Peers(rendezvous, world_size, training.distributed_rank, training.device_id)
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environ.keys():
        if environ["WORLD_SIZE"] == "1" and world_size == 1:
            return None
        rank = int(environ["RANK"])
        local_rank = int(environ.get("LOCAL_RANK", rank))
        return Peers("env://", int(environ["WORLD_SIZE"]), rank, local_rank % gpus if gpus else 0)
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", 0))
    # A batch script has SLURM_NTASKS too, as what srun could start; it counts if the flags ask for just as many.
    if not tasks and environ.get("SLURM_NTASKS") == str(world_size) and "SLURM_PROCID" in environ:
        tasks = world_size
    if tasks > 1:
        return _joined_by_srun(training, tasks, gpus, environ)
    if world_size == 1 and rendezvous is None:
        return None
    return _on_this_machine(training, gpus)


def _joined_by_srun(training: DictConfig, tasks: int, gpus: int, environ: Mapping[str, str]) -> Peers:
    """One process per task; or, with one task on each node, as many on each node as it has GPUs."""
    nodes = int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or 1)
    rendezvous = training.distributed_init_method
    if rendezvous is None:
        # A port that every task works out alone, another one for each start of a job step, below the ephemeral ones.
        step = "/".join(environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))
        port = 10000 + zlib.crc32(step.encode()) % 20000
        rendezvous = f"tcp://{first_host(nodes, environ)}:{max(training.distributed_port, 0) or port}"
    per_node = gpus or max(1, training.distributed_world_size // nodes)
    if tasks == nodes and per_node > 1:
        return Peers(rendezvous, nodes * per_node, int(environ["SLURM_NODEID"]) * per_node, to_spawn=per_node)
    device_id = int(environ.get("SLURM_LOCALID", 0)) % gpus if gpus else 0
    return Peers(rendezvous, tasks, int(environ["SLURM_PROCID"]), device_id)


def first_host(nodes: int, environ: Mapping[str, str]) -> str:
    """Where the processes of a job step meet; without scontrol, as in a container, at MASTER_ADDR, or a UsageError."""
    if nodes == 1:
        return "localhost"
    command = ["scontrol", "show", "hostnames", environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        if given := environ.get("MASTER_ADDR"):
            return given
        raise UsageError(
            f"`{' '.join(command)}` failed ({error}), so the processes have no rendezvous: set MASTER_ADDR to the "
            "first node, or give it with --distributed-init-method tcp://HOST:PORT"
        ) from None


def _on_this_machine(training: DictConfig, gpus: int) -> Peers:
    """As many processes as there are GPUs; on CPUs `--distributed-num-procs`, or all of them if it is not given."""
    world_size, rank = training.distributed_world_size, training.distributed_rank
    rendezvous = training.distributed_init_method
    if rendezvous is None and training.distributed_no_spawn:
        raise UsageError(
            f"--distributed-no-spawn makes this process one of {world_size}, without its rank and rendezvous: add "
            "--distributed-rank and --distributed-init-method tcp://HOST:PORT, or use torchrun"
        )
    if rendezvous is None and 0 < gpus < world_size:
        raise UsageError(
            f"--distributed-world-size {world_size} is more than the {gpus} GPUs of this machine: lower it, add "
            "--cpu, or start the processes of several machines with torchrun or srun"
        )
    here = gpus or (training.distributed_num_procs if training.distributed_num_procs > 1 else world_size)
    to_spawn = min(here, world_size)
    if rank + to_spawn > world_size:
        raise UsageError(
            f"--distributed-world-size {world_size} has no room for {to_spawn} processes from --distributed-rank "
            f"{rank} on: give each machine the rank of its first process and, on CPUs, the number of its processes "
            "with --distributed-num-procs"
        )
    if rendezvous is None:
        with socket.socket() as free:  # fairseq takes a random port, whether or not it is free
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        rendezvous = f"tcp://localhost:{max(training.distributed_port, 0) or port}"
    return Peers(rendezvous, world_size, rank, to_spawn=to_spawn)
