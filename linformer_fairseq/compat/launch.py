"""Start or join the processes of one training run, as `peers.find_peers` says, with or without GPUs."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.distributed
from fairseq.distributed import DistributedTimeoutWrapper
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from omegaconf import DictConfig, open_dict
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from torch.nn.parallel import DistributedDataParallel

from linformer_fairseq.compat import Function, precision, replaces
from linformer_fairseq.compat.peers import Peers, find_peers
from linformer_fairseq.errors import as_one_sentence
from linformer_fairseq.plugin import register


def start(fairseq: Function, cfg: DictConfig, main: Function, **kwargs: Any) -> None:
    """Run `main(cfg, **kwargs)` in every process that this one stands for; TPUs and pipelines are left to fairseq."""
    with as_one_sentence():
        if cfg.common.tpu or cfg.distributed_training.pipeline_model_parallel:
            fairseq(cfg, main, **kwargs)
            return
        peers = _peers(cfg)
        if peers is None:
            precision.refuse_unserved_gpu(cfg)
            main(cfg, **kwargs)
            return
        _write(peers, cfg)
        if not peers.to_spawn:
            _run_rank(peers.device_id, main, cfg, kwargs)
            return
        arguments = (main, cfg, {**kwargs, "start_rank": peers.rank})
        try:
            spawn(_run_spawned, arguments, nprocs=peers.to_spawn)  # type: ignore[no-untyped-call]
        except ProcessExitedException as error:
            if error.exit_code < 0:  # killed by a signal
                raise
            sys.exit(error.exit_code)  # it has already said why


def _run_spawned(device_id: int, main: Function, cfg: DictConfig, kwargs: dict[str, Any]) -> None:
    # fairseq would skip the user-dir, whose package was imported to find this function.
    register()
    # Otherwise its data loaders would be spawned as well, and each import PyTorch and fairseq for seconds.
    multiprocessing.set_start_method(None, force=True)
    _run_rank(device_id, main, cfg, kwargs)


def _run_rank(device_id: int, main: Function, cfg: DictConfig, kwargs: dict[str, Any]) -> None:
    with as_one_sentence():
        precision.refuse_unserved_gpu(cfg)
        distributed_utils.distributed_main(device_id, main, cfg, {"after_distributed_init_fn": _connect, **kwargs})


def _connect(cfg: DictConfig) -> DictConfig:
    # fairseq connects when the model is built; until then, the others would wait 30 minutes for one that has died.
    distributed_utils.get_global_group()
    return cfg


def _peers(cfg: DictConfig) -> Peers | None:
    gpus = 0 if precision.on_cpu(cfg) else torch.cuda.device_count()
    return find_peers(cfg.distributed_training, gpus, os.environ)


def _write(peers: Peers, cfg: DictConfig) -> None:
    """Tell fairseq. It fills in the rank of a spawned process itself, and NCCL, its default, needs GPUs."""
    training = cfg.distributed_training
    with open_dict(cfg):
        training.distributed_init_method = peers.init_method
        training.distributed_world_size = peers.world_size
        training.distributed_rank = None if peers.to_spawn else peers.rank
        training.distributed_num_procs = peers.to_spawn or 1
        training.distributed_no_spawn = not peers.to_spawn
        training.device_id = peers.device_id
        if training.distributed_backend == "nccl" and precision.on_cpu(cfg):
            training.distributed_backend = "gloo"


def catch_up_in_hydra(around: Callable[[Function, Function], Function]) -> None:
    """Do for `fairseq-hydra-train` what can still be done when it imports the user-dir.

    Without this project's Hydra plugin, that happens inside `fairseq_cli.train.main`, after fairseq's own `call_main`.
    In `add_defaults`, which `main` calls next, a process of torchrun or srun can still join the others.
    """
    train: Any = sys.modules.get("fairseq_cli.train")
    if train is not None:
        train.add_defaults = around(train.add_defaults, _join_late)


def _join_late(fairseq: Function, cfg: DictConfig) -> None:
    fairseq(cfg)
    with as_one_sentence():
        precision.refuse_fp16_on_cpu(cfg)
        precision.refuse_unserved_gpu(cfg)
        if cfg.common.tpu or torch.distributed.is_initialized():
            return
        peers = _peers(cfg)
        if peers is not None and not peers.to_spawn:
            _write(peers, cfg)
            if not precision.on_cpu(cfg):  # as fairseq's `distributed_main`, or NCCL puts all ranks on the first
                torch.cuda.set_device(peers.device_id)
            distributed_utils.distributed_init(cfg)


class DeviceAwareDDP(DistributedDataParallel):
    """PyTorch's DDP without `device_ids` for a module on the CPU, as DDP requires."""

    def __init__(
        self, module: nn.Module, device_ids: Any = None, output_device: int | None = None, **options: Any
    ) -> None:
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            device_ids = output_device = None
        super().__init__(module, device_ids=device_ids, output_device=output_device, **options)


def wrap_models() -> None:
    """Let `--ddp-backend pytorch_ddp`, the default, work on a CPU, where fairseq still passes a device id.

    Let `--heartbeat-timeout` end a process that makes no progress; its log then holds the stacks of its threads.
    fairseq sends it SIGINT, which here asks it to save at the end of an update that never comes.
    """
    distributed_fairseq_model.DistributedDataParallel = DeviceAwareDDP
    distributed_fairseq_model.DistributedTimeoutWrapper = partial(DistributedTimeoutWrapper, signal=signal.SIGABRT)


@replaces(distributed_utils, "all_gather_list")
def gather_without_cuda(fairseq: Function, data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
    """Gather logs that cannot be summed over gloo without a GPU. fairseq does it through a `torch.cuda.ByteTensor`."""
    group = distributed_utils.get_global_group() if group is None else group
    if torch.distributed.get_backend(group) != "gloo":
        return list(fairseq(data, group, max_size))
    gathered: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(gathered, data, group=group)
    return gathered
