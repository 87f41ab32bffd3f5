"""Sequences to pooled vectors or to logits of a head, in batches. Shapes: B batch, N tokens, C channels."""

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
from linformer_fairseq.inference import POOLINGS
from linformer_fairseq.inference.quantize import quantize
from linformer_fairseq.inference.sequences import Ids, Sequences, like_length
from linformer_fairseq.models.linformer_roberta import require_compiler
from linformer_fairseq.training.hardware import low_precision

# Larger batches are no faster: on a CPU, the activations no longer fit into its cache.
BATCH_TOKENS = {"cpu": 8192, "cuda": 65536}
# Fixed cost of a batch (starting kernels, reading the parameters), in tokens that could be computed meanwhile.
OVERHEAD = {"cpu": 64, "cuda": 2048}
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Compute:
    """How a model is computed; the results are the same up to rounding."""

    device: str | None = None  # such as cpu or cuda:1; by default a GPU if there is one
    dtype: str = "float32"  # one of `DTYPES`
    quantize: bool = False  # linear layers of the encoder in 8-bit integers, on a CPU
    compile: bool = False  # the encoder's layers by torch.compile
    batch_tokens: int | None = None  # in a batch at most, padding included; by default `BATCH_TOKENS`


class Engine:
    """A model in evaluation mode; `output` is one of `POOLINGS`, or the name of a classification head.

    UsageError if there is no such head, or the device is not available or does not support `compute`.
    """

    def __init__(self, checkpoint: Checkpoint, output: str, compute: Compute = Compute()) -> None:
        self._compute = compute
        self.device = check_compute(self._compute)
        self.batch_tokens = self._compute.batch_tokens or BATCH_TOKENS.get(self.device.type, 16384)
        if output not in (*POOLINGS, *checkpoint.heads):
            raise UsageError(f"the checkpoint has no head {output}; fine-tune it with `linformer finetune`")
        model = build(checkpoint).to(self.device)
        self._encoder = model.encoder.sentence_encoder
        self._head = None if output in POOLINGS else model.classification_heads[output]
        self._pooling = output
        self._width = self._encoder.cfg.embed_dim if self._head is None else self._head.out_proj.out_features
        if self._compute.quantize:
            quantize(self._encoder)
        if self._compute.compile:
            self._encoder.compile_layers()

    @torch.inference_mode()
    def run(self, ids: Sequence[Ids], tick: Callable[[int], object] = lambda tokens: None) -> Values:
        """(sequences, C) vectors or (sequences, classes) logits, which do not depend on the batches.

        `tick` is called after each batch with the number of its tokens, without padding.
        """
        lengths = list(map(len, ids))
        found = np.empty((len(ids), self._width), dtype=np.float32)
        # Around all batches: one autocast converts the parameters once.
        low = self._compute.dtype == "bfloat16"
        with torch.autocast(self.device.type, low_precision(self.device)) if low else nullcontext():
            for batch in like_length(lengths, self.batch_tokens, OVERHEAD.get(self.device.type, 64)):
                tokens = pad_sequence([torch.from_numpy(ids[i]) for i in batch], True, PAD).to(self.device)
                found[batch] = self._values(tokens).float().cpu().numpy()
                tick(sum(lengths[i] for i in batch))
        return found

    def rows(self, rows: Sequences, tick: Callable[[int], object] = lambda tokens: None) -> Values:
        """(rows, C) vectors or (rows, classes) logits: the mean over each row's sequences, weighted by tokens if they
        are vectors; or their largest values, with the pooling `max`.
        """
        values = self.run(rows.ids, tick)
        starts = np.flatnonzero(np.diff(rows.owners, prepend=-1))
        if len(starts) == len(values):
            return values
        if self._pooling == "max":
            return np.maximum.reduceat(values, starts)
        weights = np.array([len(ids) if self._head is None else 1 for ids in rows.ids], dtype=np.float32)
        sums: Values = np.add.reduceat(values * weights[:, None], starts)
        return np.divide(sums, np.add.reduceat(weights, starts)[:, None], dtype=np.float32)

    def _values(self, tokens: Tensor) -> Tensor:
        """(B, N) ids to (B, C) vectors or (B, classes) logits."""
        features: Tensor = self._encoder(tokens)[0]
        if self._head is not None:
            scores: Tensor = self._head(features)
            return scores
        features, real = features.float(), tokens.ne(PAD)
        if self._pooling == "first":
            return features[:, 0]
        if self._pooling == "max":
            return features.masked_fill(~real.unsqueeze(-1), -torch.inf).amax(1)
        # A product with the mask, not a sum over a copy: what it writes is B x C.
        return torch.bmm(real.float().unsqueeze(1), features).squeeze(1) / real.sum(1, keepdim=True)


def check_compute(compute: Compute) -> torch.device:
    """The device to compute on; UsageError if it is not available or does not support `compute`."""
    name = compute.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name}: not available here ({reason}); use cpu, or leave it out") from error
    if compute.quantize and device.type != "cpu":
        raise UsageError(f"--quantize is for a CPU and the device is {device}; use --dtype bfloat16, or --device cpu")
    if device.type == "meta":
        raise UsageError(f"--device {name}: computes nothing; use cpu, or leave it out")
    if compute.quantize and compute.compile:
        raise UsageError("--quantize and --compile exclude each other; choose one")
    if compute.compile:
        require_compiler()
    return device
