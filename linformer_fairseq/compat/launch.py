"""Start or join the processes of one training: torchrun, srun or this machine, with or without GPUs.

fairseq counts GPUs to know how many processes there are. Without any, two processes fail on an assertion or, with
`--distributed-init-method`, train nothing at all; and under torchrun or srun each process trains for itself, into the same
`--save-dir`, if no process sees more than one device. `find_peers` says how a process fits in, from its configuration and
environment alone; `call_main` acts on it.
"""

import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, open_dict
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from linformer_fairseq.compat import precision
from linformer_fairseq.compat.errors import UsageError, as_one_sentence

logger = logging.getLogger(__name__)

Main = Callable[..., object]
fairseq_call_main = distributed_utils.call_main


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
    """Number of processes to start here; 0 if this process trains itself."""


def start_or_join_all_processes() -> None:
    """Replace fairseq's `call_main`, through which all its commands start."""
    distributed_utils.call_main = call_main


def call_main(cfg: DictConfig, main: Main, **kwargs: Any) -> None:
    """Run `main(cfg, **kwargs)` in every process of this training that this process stands for.

    Leaves TPUs and pipeline parallelism to fairseq. A UsageError ends the program with its sentence.
    """
    with as_one_sentence():
        precision.refuse_fp16_on_cpu(cfg)
        if cfg.common.tpu or cfg.distributed_training.pipeline_model_parallel:
            fairseq_call_main(cfg, main, **kwargs)
            return
        peers = find_peers(cfg.distributed_training, _gpus(cfg), os.environ)
        if peers is None:
            main(cfg, **kwargs)
            return
        _write(peers, cfg)
        if not peers.to_spawn:
            _run_rank(peers.device_id, main, cfg, kwargs)
            return
        try:
            spawn(_run_spawned, (main, cfg, {**kwargs, "start_rank": peers.rank}), nprocs=peers.to_spawn)
        except ProcessExitedException as error:
            if error.exit_code < 0:  # killed by a signal
                raise
            sys.exit(error.exit_code)  # it has said why


def _run_spawned(device_id: int, main: Main, cfg: DictConfig, kwargs: dict[str, Any]) -> None:
    """Train as a process that `call_main` has spawned.

    This is what such a process looks up first. Defined here, and not in fairseq, it brings the repairs with it:
    fairseq imports `--user-dir` only after it has set up torch.distributed.
    """
    # A spawned process would spawn its data loaders too, each of them importing PyTorch and fairseq for seconds.
    multiprocessing.set_start_method(None, force=True)
    _run_rank(device_id, main, cfg, kwargs)


def _run_rank(device_id: int, main: Main, cfg: DictConfig, kwargs: dict[str, Any]) -> None:
    """Train as one of several processes."""
    with as_one_sentence():
        distributed_utils.distributed_main(
            device_id, main, cfg, {"after_distributed_init_fn": _connect, **kwargs}
        )


def _connect(cfg: DictConfig) -> DictConfig:
    """Connect to the other processes at once, so that each sees at its next collective if one has died.

    fairseq connects only when the model is built; until then the others would wait 30 minutes for a dead process.
    """
    distributed_utils.get_global_group()
    return cfg


def _gpus(cfg: DictConfig) -> int:
    return 0 if precision.on_cpu(cfg) else torch.cuda.device_count()


def _write(peers: Peers, cfg: DictConfig) -> None:
    training = cfg.distributed_training
    with open_dict(cfg):
        training.distributed_init_method = peers.init_method
        training.distributed_world_size = peers.world_size
        # fairseq's distributed_main fills in the rank of a spawned process.
        training.distributed_rank = None if peers.to_spawn else peers.rank
        training.distributed_num_procs = peers.to_spawn or 1
        training.distributed_no_spawn = not peers.to_spawn
        training.device_id = peers.device_id
        if training.distributed_backend == "nccl" and not _gpus(cfg):
            training.distributed_backend = "gloo"


def find_peers(training: DictConfig, gpus: int, environ: Mapping[str, str]) -> Peers | None:
    """Say where this process belongs.

    A launcher that has started several processes decides (torchrun, then srun), then the flags, then the GPUs of this
    machine. A process that was told everything by hand (`--distributed-no-spawn` and `--distributed-init-method`) is asked
    no more.

    Args:
        training: the `distributed_training` part of fairseq's configuration.
        gpus: number of GPUs that this process may use; 0 for a run on CPUs.
        environ: the environment variables.

    Returns:
        None for a training of one process.

    Raises:
        UsageError: the flags do not fit together, or ask for more GPUs than there are.
    """
    meeting_point = training.distributed_init_method
    world_size = training.distributed_world_size
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

    Only srun sets SLURM_STEP_NUM_TASKS. SLURM_NTASKS stands in a batch script as well, where it says what srun could start;
    it counts if the flags ask for the same number.
    """
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", 0))
    if not tasks and environ.get("SLURM_NTASKS") == str(world_size) and "SLURM_PROCID" in environ:
        tasks = world_size
    return tasks


def _joined_by_srun(training: DictConfig, tasks: int, gpus: int, environ: Mapping[str, str]) -> Peers:
    """One process per task; or, with one task on each node, as many as the node has GPUs."""
    nodes = int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or 1)
    meeting_point = training.distributed_init_method
    if meeting_point is None:
        port = training.distributed_port if training.distributed_port > 0 else _port_of_job(environ)
        meeting_point = f"tcp://{_first_host(nodes, environ)}:{port}"
    per_node = gpus or max(1, training.distributed_world_size // nodes)
    if tasks == nodes and per_node > 1:
        return Peers(
            meeting_point, nodes * per_node, int(environ["SLURM_NODEID"]) * per_node, to_spawn=per_node
        )
    device_id = int(environ.get("SLURM_LOCALID", 0)) % gpus if gpus else 0
    return Peers(meeting_point, tasks, int(environ["SLURM_PROCID"]), device_id)


def _first_host(nodes: int, environ: Mapping[str, str]) -> str:
    if nodes == 1:
        return "localhost"
    hosts = environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]
    try:
        names = subprocess.run(
            ["scontrol", "show", "hostnames", hosts], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(
            f"the first host of {hosts} is unknown, because `scontrol show hostnames` failed ({error}): give it with "
            "--distributed-init-method tcp://HOST:PORT"
        ) from None
    return names.stdout.split()[0]


def _port_of_job(environ: Mapping[str, str]) -> int:
    """A port that all tasks work out alone; another one for each job, step and restart. Below the ephemeral ports."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return 10000 + zlib.crc32("/".join(environ.get(name, "") for name in names).encode()) % 20000


def _on_this_machine(training: DictConfig, gpus: int) -> Peers:
    world_size, rank = training.distributed_world_size, training.distributed_rank
    meeting_point = training.distributed_init_method
    if meeting_point is None and training.distributed_no_spawn:
        raise UsageError(
            f"--distributed-no-spawn makes this process one of {world_size}, but not which one, nor where they meet: add "
            "--distributed-rank and --distributed-init-method tcp://HOST:PORT, or start them with torchrun"
        )
    if meeting_point is None and 0 < gpus < world_size:
        raise UsageError(
            f"--distributed-world-size {world_size} is more than the {gpus} GPUs of this machine: lower it, add --cpu, or "
            "start the processes of several machines with torchrun or srun"
        )
    if gpus:
        to_spawn = min(gpus, world_size)
    elif training.distributed_num_procs > 1:
        to_spawn = min(training.distributed_num_procs, world_size)
    else:
        to_spawn = world_size
    if rank + to_spawn > world_size:
        raise UsageError(
            f"{to_spawn} processes from --distributed-rank {rank} on do not fit into --distributed-world-size {world_size}: "
            "give each machine the rank of its first process, and the number of its processes with "
            "--distributed-num-procs"
        )
    if meeting_point is None:
        port = training.distributed_port if training.distributed_port > 0 else _free_port()
        meeting_point = f"tcp://localhost:{port}"
    return Peers(meeting_point, world_size, rank, to_spawn=to_spawn)


def _free_port() -> int:
    """A port that nothing listens on. fairseq draws one by lot, or derives it from the Slurm job."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
    return port


def catch_up_in_hydra() -> None:
    """Do for `fairseq-hydra-train` what `call_main` does for the others, as far as it can still be done.

    `fairseq-hydra-train` imports `common.user_dir` inside `fairseq_cli.train.main`, when fairseq's own `call_main` has come
    to its end. The next thing that `main` does is to call `add_defaults`: there a process that torchrun or srun has started
    can still join the others, and `common.fp16` without a GPU can still be refused. (The Hydra plugin of this project makes
    the import come first; with it, there is nothing left to do here.)
    """
    train = sys.modules.get("fairseq_cli.train")
    if train is None:
        return
    fairseq_add_defaults = train.add_defaults

    def add_defaults(cfg: DictConfig) -> None:
        with as_one_sentence():
            fairseq_add_defaults(cfg)
            precision.refuse_fp16_on_cpu(cfg)
            if cfg.common.tpu or torch.distributed.is_initialized():
                return
            peers = find_peers(cfg.distributed_training, _gpus(cfg), os.environ)
            if peers is not None and not peers.to_spawn:
                _write(peers, cfg)
                distributed_utils.distributed_init(cfg)

    train.add_defaults = add_defaults
