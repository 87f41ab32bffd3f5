"""Sequences through a model in batches: pooled vectors, or scores of a head. Shapes: B batch, N tokens, C channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from linformer_fairseq.checkpoints.checkpoint import PAD, Checkpoint, build
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.batches import Order, like_length
from linformer_fairseq.inference.quantize import quantize
from linformer_fairseq.inference.sequences import Ids
from linformer_fairseq.models.linformer_roberta import require_compiler

POOLINGS = ("mean", "first", "max")
DTYPES = ("float32", "bfloat16")
# Larger batches are no faster, on a CPU since what lies between the layers leaves its cache.
BATCH_TOKENS = {"cpu": 8192, "cuda": 65536}
# What a batch costs by itself, as tokens that could be computed meanwhile: to start kernels, to read the parameters.
OVERHEAD = {"cpu": 64, "cuda": 2048}
Values = npt.NDArray[np.float32]
Batching = Callable[[Sequence[int], int, int], list[Order]]
Tick = Callable[[Order, int], None]


@dataclass(frozen=True)
class Compute:
    """How a model is computed; what comes out is the same up to rounding.

    Attributes:
        device: such as cpu or cuda:1; by default a GPU, where there is one.
        dtype: `bfloat16` is autocast: parameters, layer norms and pooling stay in float32.
        quantize: linear layers of the encoder in 8-bit integers, on a CPU.
        compile: the encoder's layers by torch.compile.
        batch_tokens: most tokens in one batch, pads counted; by default that of `BATCH_TOKENS`.
    """

    device: str | None = None
    dtype: str = "float32"
    quantize: bool = False
    compile: bool = False
    batch_tokens: int | None = None


class Engine:
    """A model in evaluation mode, and how its features become one row of values for a sequence.

    Args:
        checkpoint: any of this project.
        output: one of `POOLINGS` over the real tokens, or the name of a classification head.
        compute: see there.

    Raises:
        UsageError: no such head, a device that is not there, or a way of computing that does not go with it.
    """

    def __init__(self, checkpoint: Checkpoint, output: str, compute: Compute | None = None) -> None:
        self.compute = compute or Compute()
        self.device = device_of(self.compute)
        if output not in (*POOLINGS, *checkpoint.heads):
            raise UsageError(f"the checkpoint has no head {output}; make one with recipes/finetune_text.py")
        model = build(checkpoint)
        self.encoder = model.encoder.sentence_encoder
        self._head = None if output in POOLINGS else model.classification_heads[output].to(self.device)
        self._pooling = output
        if self.compute.quantize:
            quantize(self.encoder)
        self.encoder.to(self.device)
        if self.compute.compile:
            self.encoder.compile_layers()
        self.batch_tokens = self.compute.batch_tokens or BATCH_TOKENS.get(self.device.type, 16384)

    @torch.inference_mode()
    def run(self, ids: Sequence[Ids], tick: Tick | None = None, batching: Batching = like_length) -> Values:
        """Values of each sequence, in their order, independent of the batches.

        Args:
            ids: of the sequences, special symbols included.
            tick: called after each batch with the numbers of its sequences and its tokens without pads.
            batching: which sequences are computed together.

        Returns:
            (sequences, C) vectors, or (sequences, classes) scores.
        """
        lengths = [len(part) for part in ids]
        batches = batching(lengths, self.batch_tokens, OVERHEAD.get(self.device.type, 64))
        found: Values | None = None
        # Around all batches: within one autocast the parameters are turned into bfloat16 once.
        with torch.autocast(self.device.type, torch.bfloat16) if self.compute.dtype == "bfloat16" else nullcontext():
            for batch in batches:
                tokens = pad_sequence([torch.from_numpy(ids[i]) for i in batch], True, PAD).to(self.device)
                values = self._values(tokens).float().cpu().numpy()
                if found is None:
                    found = np.empty((len(ids), values.shape[1]), dtype=np.float32)
                found[batch] = values
                if tick is not None:
                    tick(batch, sum(lengths[i] for i in batch))
        return np.empty((0, 0), dtype=np.float32) if found is None else found

    def _values(self, tokens: Tensor) -> Tensor:
        features, _ = self.encoder(tokens)
        if self._head is not None:
            scores: Tensor = self._head(features)
            return scores
        return pool(features.float(), tokens.ne(PAD), self._pooling)


def pool(features: Tensor, real: Tensor, pooling: str) -> Tensor:
    """(B, N, C) features and (B, N), True for a real token, to (B, C)."""
    if pooling == "first":
        return features[:, 0]
    if pooling == "max":
        return features.masked_fill(~real.unsqueeze(-1), -torch.inf).amax(1)
    # A product with the mask, not a sum over a copy: what it writes is B x C.
    total = torch.bmm(real.to(features.dtype).unsqueeze(1), features).squeeze(1)
    return total / real.sum(1, keepdim=True)


def of_rows(values: Values, owners: Ids, weights: Values | None = None, largest: bool = False) -> Values:
    """Values of rows from those of their sequences: the mean, or the largest.

    Args:
        values: (sequences, D).
        owners: (sequences,) the row of each, ascending; every row has one or more.
        weights: (sequences,) of the mean; by default equal ones.
        largest: the largest of each value instead.

    Returns:
        (rows, D).
    """
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    if len(starts) == len(values):
        return values
    if largest:
        return np.maximum.reduceat(values, starts)
    weights = np.ones(len(values), dtype=np.float32) if weights is None else weights
    sums: Values = np.add.reduceat(values * weights[:, None], starts)
    return np.divide(sums, np.add.reduceat(weights, starts)[:, None], dtype=np.float32)


def device_of(compute: Compute) -> torch.device:
    """The device to compute on.

    Raises:
        UsageError: it is not there, or `compute` does not go with it.
    """
    name = compute.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name}: not to be had here ({reason}); use cpu, or leave it out") from error
    if compute.quantize and device.type != "cpu":
        raise UsageError(f"--quantize is for a CPU and the device is {device}; use --dtype bfloat16, or --device cpu")
    if compute.quantize and compute.compile:
        raise UsageError("--quantize and --compile do not go together; choose one")
    if compute.compile:
        require_compiler()
    return device
