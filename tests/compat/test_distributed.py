"""What two processes on CPUs need; one process in a group of one takes the same ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils
from fairseq.models.distributed_fairseq_model import DistributedFairseqModel
from omegaconf import OmegaConf
from torch import nn

from linformer_fairseq.compat.launch import DeviceAwareDDP


@pytest.fixture
def group(tmp_path: Path) -> Iterator[torch.distributed.ProcessGroup]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    assert torch.distributed.group.WORLD is not None
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def test_the_default_ddp_wraps_a_model_on_the_cpu(group: torch.distributed.ProcessGroup) -> None:
    """fairseq passes device_ids=[0] and output_device=0, which DDP refuses for such a model."""
    settings = OmegaConf.structured(FairseqConfig).distributed_training
    assert settings.ddp_backend == "pytorch_ddp"
    wrapped = DistributedFairseqModel(settings, nn.Linear(3, 2), group, torch.device("cpu"))
    assert isinstance(wrapped.module, DeviceAwareDDP)
    wrapped(torch.ones(1, 3)).sum().backward()
    assert torch.equal(wrapped.module.module.weight.grad, torch.ones(2, 3))


def test_any_log_is_gathered(group: torch.distributed.ProcessGroup) -> None:
    """In the order of ranks, with tensors, and longer than fairseq's buffer of 16 kB."""
    log = {"loss": torch.tensor([1.5]), "name": "x" * 20000}
    (gathered,) = distributed_utils.all_gather_list(log, group)
    assert torch.equal(gathered["loss"], log["loss"]) and gathered["name"] == log["name"]
