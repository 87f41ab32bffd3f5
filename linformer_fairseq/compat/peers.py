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

    init_method: str
    """Where they meet, as torch.distributed understands it."""
    world_size: int
    """Number of processes on all machines."""
    rank: int
    """Rank of this process, or of the first one that it starts."""
    device_id: int = 0
    """GPU of this process."""
    to_spawn: int = 0
    """Number of processes to start here; 0 if this process itself trains."""


def find_peers(training: DictConfig, gpus: int, environ: Mapping[str, str]) -> Peers | None:
    """Say where this process belongs.

    A launcher that has started several processes decides (torchrun, then srun), then the flags, then the GPUs of
    this machine. A process that was told everything by hand, with `--distributed-no-spawn` and
    `--distributed-init-method`, is taken at its word.

    Args:
        training: the `distributed_training` part of fairseq's configuration.
        gpus: number of GPUs that this process may use; 0 for a run on CPUs.
        environ: the environment variables.

    Returns:
        None for a training of one process.

    Raises:
        UsageError: the flags do not fit together, or ask for more GPUs than there are.
    """
    meeting_point, world_size = training.distributed_init_method, training.distributed_world_size
    if meeting_point is not None and training.distributed_no_spawn:
        return Peers(meeting_point, world_size, training.distributed_rank, training.device_id)
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environ.keys():
        return _joined_by_torchrun(world_size, gpus, environ)
    tasks = _tasks_of_srun(world_size, environ)
    if tasks > 1:
        return _joined_by_srun(training, tasks, gpus, environ)
    if world_size == 1 and meeting_point is None:
        return None
    return _on_this_machine(training, gpus)


def _joined_by_torchrun(world_size: int, gpus: int, environ: Mapping[str, str]) -> Peers | None:
    if environ["WORLD_SIZE"] == "1" and world_size == 1:
        return None
    rank = int(environ["RANK"])
    local_rank = int(environ.get("LOCAL_RANK", rank))
    return Peers("env://", int(environ["WORLD_SIZE"]), rank, local_rank % gpus if gpus else 0)


def _tasks_of_srun(world_size: int, environ: Mapping[str, str]) -> int:
    """Number of tasks that srun has started together with this one.

    SLURM_STEP_NUM_TASKS is srun's alone. SLURM_NTASKS stands in the environment of a batch script too, where it says
    what srun could start; it counts if the flags ask for just as many processes.
    """
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", 0))
    if not tasks and environ.get("SLURM_NTASKS") == str(world_size) and "SLURM_PROCID" in environ:
        tasks = world_size
    return tasks


def _joined_by_srun(training: DictConfig, tasks: int, gpus: int, environ: Mapping[str, str]) -> Peers:
    """One process per task; or, with one task on each node, as many on each node as it has GPUs."""
    nodes = int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or 1)
    meeting_point = training.distributed_init_method
    if meeting_point is None:
        port = training.distributed_port if training.distributed_port > 0 else _port_of_step(environ)
        meeting_point = f"tcp://{_first_host(nodes, environ)}:{port}"
    per_node = gpus or max(1, training.distributed_world_size // nodes)
    if tasks == nodes and per_node > 1:
        first_rank = int(environ["SLURM_NODEID"]) * per_node
        return Peers(meeting_point, nodes * per_node, first_rank, to_spawn=per_node)
    device_id = int(environ.get("SLURM_LOCALID", 0)) % gpus if gpus else 0
    return Peers(meeting_point, tasks, int(environ["SLURM_PROCID"]), device_id)


def _first_host(nodes: int, environ: Mapping[str, str]) -> str:
    if nodes == 1:
        return "localhost"
    hosts = environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]
    command = ["scontrol", "show", "hostnames", hosts]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"`{' '.join(command)}` failed ({error}), so the processes do not know where to meet: say it with "
            "--distributed-init-method tcp://HOST:PORT"
        ) from None


def _port_of_step(environ: Mapping[str, str]) -> int:
    """A port that every task works out alone, for each start of a job step another one, below the ephemeral ones."""
    step = "/".join(environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))
    return 10000 + zlib.crc32(step.encode()) % 20000


def _on_this_machine(training: DictConfig, gpus: int) -> Peers:
    """As many processes as there are GPUs; on CPUs `--distributed-num-procs`, or all of them if it is not given."""
    world_size, rank = training.distributed_world_size, training.distributed_rank
    meeting_point = training.distributed_init_method
    if meeting_point is None and training.distributed_no_spawn:
        raise UsageError(
            f"--distributed-no-spawn makes this process one of {world_size} and leaves open which one and where they "
            "meet: add --distributed-rank and --distributed-init-method tcp://HOST:PORT, or use torchrun"
        )
    if meeting_point is None and 0 < gpus < world_size:
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
    if meeting_point is None:
        port = training.distributed_port if training.distributed_port > 0 else _free_port()
        meeting_point = f"tcp://localhost:{port}"
    return Peers(meeting_point, world_size, rank, to_spawn=to_spawn)


def _free_port() -> int:
    """A port that nothing listens on. fairseq draws one by lot, or from the number of the Slurm job."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
    return port
