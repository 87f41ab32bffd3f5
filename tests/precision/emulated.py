"""`fairseq-train` in 16 bit on a CPU as it runs on a GPU: a server whose runs are forks of one process.

It changes no more than `as_on_a_gpu` says: the refusal, CUDA's names for what PyTorch has on CPUs too, and the choice
of the plain operations of a layer. Parameters, gradients, loss scaling, optimizers, checkpoints are the real ones.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from functools import partial
from typing import Any

from fairseq_cli.train import cli_main  # isort: skip  (it sets up logging to standard output, if it is first)

import torch
import torch._dynamo  # which optimizers import at their first step, for seconds
from fairseq.tasks.fairseq_task import FairseqTask
from torch.nn import functional

from linformer_fairseq.compat import precision
from linformer_fairseq.layers import attention, fused
from linformer_fairseq.plugin import register


def as_on_a_gpu() -> None:
    precision.refuse_fp16_on_cpu = lambda cfg: None
    precision.autocast_on_cpu = lambda cfg, criterion: None  # --bf16 and --amp mean what they mean on CUDA
    torch.cuda.current_device = lambda: None  # type: ignore[return-value]  # fairseq's key for flat parameters, `parameter.device.index`
    torch.Tensor.cuda = lambda tensor, *arguments, **named: tensor
    torch.cuda.amp.GradScaler = partial(torch.amp.GradScaler, "cpu")
    torch.cuda.amp.autocast = partial(torch.autocast, "cpu", dtype=torch.float16)
    fused.fuses = lambda x: False
    attention.attend = lambda q, k, v, mask, p: functional.scaled_dot_product_attention(q, k, v, mask, p)


def inject(gradients: dict[str, float]) -> None:
    """Write a value into a gradient after the n-th backward pass of the run, counted from 1."""
    train_step, count = FairseqTask.train_step, 0

    def counted(task: Any, sample: Any, model: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        result = train_step(task, sample, model, *arguments, **named)
        if str(count) in gradients:
            [last] = [parameter.grad for parameter in model.parameters() if parameter.grad is not None][-1:]
            last.view(-1)[0] = gradients[str(count)]
        return result

    FairseqTask.train_step = counted


def run(job: dict[str, Any]) -> int:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(job["env"])
    inject(job["gradients"])
    sys.argv = ["fairseq-train", *job["argv"]]
    status = 1
    try:
        cli_main()
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
        print(leaving.code)
    except BaseException:
        traceback.print_exc()
    import resource

    print("CPU", resource.getrusage(resource.RUSAGE_SELF).ru_utime)
    sys.stdout.flush()
    return status


def main() -> None:
    """For each line of JSON: start a run and answer its process id, or wait for one and answer its exit status."""
    register()
    as_on_a_gpu()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        if isinstance(job, dict):
            answer = os.fork()
            if answer == 0:
                os._exit(run(job))
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
        print("answer", answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
