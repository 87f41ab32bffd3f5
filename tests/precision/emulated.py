"""`fairseq-train` in 16 bit on a CPU as it runs on a GPU: `python tests/precision/emulated.py DATA FLAG…`.

It changes no more than `as_on_a_gpu` says: the refusal, CUDA's names for what PyTorch has on CPUs too, and the choice
of the plain operations of a layer. Parameters, gradients, loss scaling, optimizers, checkpoints are the real ones.
A process may hold several runs, one after another: most of the time of a small run is that of reading its flags.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fairseq_cli.train import cli_main  # isort: skip  (it sets up logging to standard output, if it is first)

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks.fairseq_task import FairseqTask
from torch.nn import functional

from linformer_fairseq.compat import precision
from linformer_fairseq.layers import attention, fused
from linformer_fairseq.plugin import register

RUNS = "EMULATED_RUNS"
"""Environment variable with a JSON list of objects, one for each run: its settings, where they differ from the flags,
and under "gradients" what a gradient holds after the n-th backward pass."""


def as_on_a_gpu() -> None:
    precision.refuse_fp16_on_cpu = lambda cfg: None
    precision.autocast_on_cpu = lambda cfg, criterion: None  # --bf16 and --amp mean what they mean on CUDA
    # fairseq's key for flat parameters is `parameter.device.index`
    torch.cuda.current_device = lambda: None  # type: ignore[return-value]
    torch.Tensor.cuda = lambda tensor, *arguments, **named: tensor
    torch.cuda.amp.GradScaler = partial(torch.amp.GradScaler, "cpu")
    torch.cuda.amp.autocast = partial(torch.autocast, "cpu", dtype=torch.float16)
    fused.fuses = lambda x: False
    attention.attend = lambda q, k, v, mask, p: functional.scaled_dot_product_attention(q, k, v, mask, p)


def disturbed(train_step: Callable[..., Any], gradients: Mapping[str, float | str]) -> Callable[..., Any]:
    """See `RUNS`; for "hang" the process does nothing for a minute, and ends with status 3."""
    count = 0

    def counted(task: Any, sample: Any, model: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        result = train_step(task, sample, model, *arguments, **named)
        value = gradients.get(str(count))
        if value == "hang":
            time.sleep(60)
            os._exit(3)
        if value is not None:
            [last] = [parameter.grad for parameter in model.parameters() if parameter.grad is not None][-1:]
            last.view(-1)[0] = value
        return result

    return counted


def one_after_another(runs: list[dict[str, Any]]) -> None:
    call_main, train_step = distributed_utils.call_main, FairseqTask.train_step

    def call_each(cfg: Any, main: Any, **named: Any) -> None:
        for number, settings in enumerate(runs):
            print(f"{RUNS} {number}", flush=True)
            FairseqTask.train_step = disturbed(train_step, settings.pop("gradients", {}))
            own = copy.deepcopy(cfg)
            for name, value in settings.items():
                group, _, key = name.partition(".")
                setattr(own[group], key, value)
            call_main(own, main, **named)

    distributed_utils.call_main = call_each


if __name__ == "__main__":
    register()
    as_on_a_gpu()
    one_after_another(json.loads(os.environ.get(RUNS, "[{}]")))
    sys.exit(cli_main())
