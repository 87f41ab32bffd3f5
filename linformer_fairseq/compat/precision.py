"""16-bit training: --bf16 and --amp on a CPU, --bf16 and --amp on CUDA, --fp16 and GPUs where they cannot work."""

import logging
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import wraps
from typing import Any, Literal

import torch
from fairseq import options
from fairseq.optim.amp_optimizer import AMPOptimizer
from omegaconf import DictConfig, open_dict
from torch import nn

from linformer_fairseq.environment import unserved_gpus
from linformer_fairseq.errors import UsageError

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "fp16", "bf16"]


def on_cpu(cfg: DictConfig) -> bool:
    """Whether a run computes on CPUs: `--cpu` was given, or there is neither a GPU nor a TPU."""
    return not cfg.common.tpu and (cfg.common.cpu or not torch.cuda.is_available())


def of_matrix_products(cfg: DictConfig) -> Precision:
    """What a run computes in. --amp means bfloat16 on CPUs, and on GPUs fairseq autocasts to fp16 only."""
    if cfg.common.bf16 or (cfg.common.amp and on_cpu(cfg)):
        return "bf16"
    return "fp16" if cfg.common.fp16 or cfg.common.amp else "fp32"


def refuse_fp16_on_cpu(cfg: DictConfig) -> None:
    """Raise a UsageError for `--fp16` on a CPU before anything is loaded.

    fairseq fails with "Torch not compiled with CUDA enabled" after the data has been read; with
    `--memory-efficient-fp16` it trains, but several times slower than in 32 bit.
    """
    if on_cpu(cfg) and (cfg.common.fp16 or cfg.common.memory_efficient_fp16):
        reason = "--cpu was given" if torch.cuda.is_available() else "PyTorch finds none here"
        raise UsageError(
            f"--fp16 and --memory-efficient-fp16 need a CUDA GPU, and {reason}: use --bf16 or --amp, which compute in "
            "bfloat16 on a CPU, or none of these flags to compute in 32 bit"
        )


def refuse_unserved_gpu(cfg: DictConfig) -> None:
    """Raise a UsageError where PyTorch has no code for a GPU; its own error, at the first kernel, is a traceback."""
    if not on_cpu(cfg) and not cfg.common.tpu and (problem := unserved_gpus(torch)):
        raise UsageError(problem)


def keep_bf16_off_tpus() -> None:
    """Let `--bf16` mean bfloat16 on the device at hand; fairseq turns it into `--tpu`, which needs torch_xla.

    With `--fp16` beside it, fairseq's message speaks of TPUs only, below a traceback.
    """
    fairseq_parse = options.parse_args_and_arch

    @wraps(fairseq_parse)
    def parse_args_and_arch(
        parser: ArgumentParser, input_args: Sequence[str] | None = None, *others: Any, **named: Any
    ) -> Any:
        given = sys.argv if input_args is None else input_args
        if {"--fp16", "--bf16"} <= set(given):
            raise SystemExit("error: --fp16 and --bf16: give one of them; --bf16 on devices that have bfloat16")
        parsed = fairseq_parse(parser, input_args, *others, **named)
        args = parsed[0] if isinstance(parsed, tuple) else parsed  # a tuple with parse_known=True
        if getattr(args, "bf16", False) and "--tpu" not in given:
            args.tpu = False
        return parsed

    options.parse_args_and_arch = parse_args_and_arch


def autocast_on_cpu(cfg: DictConfig, criterion: nn.Module) -> None:
    """Make `--bf16` and `--amp` compute the forward pass in bfloat16 on a CPU, by autocast.

    Without CUDA, fairseq ignores `--amp`, and `--bf16` wants CUDA for the 32-bit copy of the parameters. bfloat16 has
    the range of float32, so no loss needs scaling, and the checkpoints are those of a 32-bit training run; `bf16` and
    `amp` are therefore off in the trainer's configuration.
    """
    if cfg.common.bf16 or cfg.common.amp:
        logger.info("computing in bfloat16 (CPU autocast); parameters and optimizer stay in float32")
        criterion.forward = torch.autocast("cpu", dtype=torch.bfloat16)(criterion.forward)
        with open_dict(cfg):
            cfg.common.bf16 = cfg.common.memory_efficient_bf16 = cfg.common.amp = False


def keep_matrices_whole(cfg: DictConfig) -> None:
    """With `--optimizer muon --fp16`: no one flat float32 copy of all parameters, which has no matrices."""
    if getattr(cfg.get("optimizer"), "_name", None) == "muon":
        with open_dict(cfg):
            cfg.common.fp16_no_flatten_grads = True


def scale_amp_once() -> None:
    """Let `--amp` on CUDA divide the gradients by the scale of the loss once.

    A gradient scaler remembers by the optimizer object whether that is done. fairseq unscales `optimizer` and steps
    with `fp32_optimizer`, which holds it, so that `step` divides again. Here both are `fp32_optimizer`.
    """

    def clip_grad_norm(amp: Any, max_norm: float, aggregate_norm_fn: Any = None) -> torch.Tensor:
        amp.scaler.unscale_(amp.fp32_optimizer)
        norm: torch.Tensor = amp.fp32_optimizer.clip_grad_norm(max_norm, aggregate_norm_fn)
        if not torch.isfinite(norm).all():
            if amp.next_loss_scale <= amp.min_loss_scale:
                raise FloatingPointError(f"the loss scale has fallen to --min-loss-scale {amp.min_loss_scale}")
            logger.info(f"AMP: overflow detected, setting scale to {amp.next_loss_scale}")
        return norm

    AMPOptimizer.clip_grad_norm = clip_grad_norm
    AMPOptimizer.multiply_grads = lambda amp, factor: amp.fp32_optimizer.multiply_grads(factor)
