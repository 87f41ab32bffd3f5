"""What the processes of one training run need from fairseq on CPUs."""

import signal
from functools import partial
from typing import Any

import torch.distributed
from fairseq.distributed import DistributedTimeoutWrapper
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class DeviceAwareDDP(DistributedDataParallel):
    """PyTorch's DDP without `device_ids` for a module on the CPU, as DDP requires."""

    def __init__(
        self, module: nn.Module, device_ids: Any = None, output_device: int | None = None, **options: Any
    ) -> None:
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            device_ids = output_device = None
        super().__init__(module, device_ids=device_ids, output_device=output_device, **options)


def wrap_cpu_modules_without_device_ids() -> None:
    """Make `--ddp-backend pytorch_ddp`, the default, work on a CPU, where fairseq still passes a device id."""
    distributed_fairseq_model.DistributedDataParallel = DeviceAwareDDP


def gather_without_cuda() -> None:
    """Gather logs that cannot be summed over gloo without a GPU. fairseq does it through a `torch.cuda.ByteTensor`."""
    fairseq_all_gather_list = distributed_utils.all_gather_list

    def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
        group = distributed_utils.get_global_group() if group is None else group
        if torch.distributed.get_backend(group) != "gloo":
            return list(fairseq_all_gather_list(data, group, max_size))
        gathered: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(gathered, data, group=group)
        return gathered

    distributed_utils.all_gather_list = all_gather_list


def abort_when_stuck() -> None:
    """Let `--heartbeat-timeout` end a process that makes no progress; its log then holds the stacks of its threads.

    fairseq sends it SIGINT, which here asks it to save at the end of an update that never comes.
    """
    distributed_fairseq_model.DistributedTimeoutWrapper = partial(DistributedTimeoutWrapper, signal=signal.SIGABRT)
