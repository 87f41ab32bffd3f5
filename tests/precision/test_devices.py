"""Types and devices of outputs and gradients on the meta device; of outputs on a CUDA device that is only pretended.

On both, the layers take the plain operations, as on a GPU, and an operand that stays on the CPU is an error.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import cycle, product

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from linformer_fairseq.criterions import fused_masked_lm
from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.layers.config import SHARINGS

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PROJECTIONS: list[dict[str, object]] = [
    *({"projection": kind, "sharing": sharing} for kind, sharing in product(("linear", "conv"), SHARINGS)),
    *({"projection": "adaptive", "local_window": 4, "sharing": sharing} for sharing in SHARINGS),
    *(
        {"projection": "mean-pool"},
        {"projection": "max-pool"},
        {"projection": "linear", "local_window": 4},
        {"projection": "adaptive"},
        {"attention": "exact"},
        {"attention": "local", "local_window": 4},
        {"attention": "none"},
    ),
]
DETAILS: tuple[dict[str, object], ...] = (
    {},
    {"local_conv": 3, "normalize_before": True, "dropout": 0.1},
    {"checkpoint_activations": True, "attention_dropout": 0.1},
    {"activation_dropout": 0.1, "freeze_projection": True, "activation": "relu"},
    {"projection_init": "normal", "projected_length": 8},
)
MATRIX = [
    pytest.param({**details, **projection}, dtype, padded, id=f"{'-'.join(map(str, projection.values()))}-{dtype}-{n}")
    for n, ((projection, dtype), details, padded) in enumerate(
        zip(product(PROJECTIONS, DTYPES), cycle(DETAILS), cycle((True, False)))
    )
]
TOKENS, PREDICTED = 48, 24  # of each of 3 samples


def step(
    options: dict[str, object], dtype: torch.dtype, padded: bool
) -> tuple[Tensor, Tensor, Tensor, LinformerEncoder]:
    """Features, loss, bias of the head and model of a masked-LM whose first tokens are predicted."""
    sizes = {"vocab_size": 50, "max_positions": 64, "embed_dim": 16, "ffn_dim": 32, "num_heads": 2, "num_layers": 2}
    torch.set_default_dtype(dtype)  # `Module.to` cannot replace a pretended parameter
    try:
        model = LinformerEncoder(EncoderConfig(**{**sizes, "projected_length": 16, **options}))  # type: ignore[arg-type]
    finally:
        torch.set_default_dtype(torch.float32)
    tokens = torch.full((3, TOKENS), 7)
    x, _ = model(tokens, needed=torch.arange(PREDICTED).expand(3, -1), padded=padded)
    bias = torch.zeros(50, dtype=dtype, requires_grad=True)
    targets = tokens[:, :PREDICTED].flatten()
    loss = fused_masked_lm.linear_cross_entropy(x.flatten(0, 1), model.embed_tokens.weight, bias, targets)
    return x, loss, bias, model


@pytest.mark.parametrize(("options", "dtype", "padded"), MATRIX)
def test_a_step_on_the_meta_device(
    options: dict[str, object], dtype: torch.dtype, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_masked_lm, "CHUNK_BYTES", 1)  # two chunks, of 64 and 8 rows
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # meta has no autocast
    monkeypatch.setattr(torch, "autocast", lambda device, **options: nullcontext())
    with torch.device("meta"):
        x, loss, bias, model = step(options, dtype, padded)
        loss.backward()
    assert (x.dtype, x.device.type, x.shape) == (dtype, "meta", (3, PREDICTED, 16))
    assert (loss.dtype, loss.device.type, loss.shape) == (torch.float32, "meta", ())
    for name, parameter in [("bias", bias), *model.named_parameters()]:
        gradient = parameter.grad
        if parameter.requires_grad:
            assert gradient is not None and (gradient.dtype, gradient.device.type) == (dtype, "meta"), name


@pytest.mark.skipif(torch.version.cuda is None, reason="this build of PyTorch cannot pretend to have a CUDA device")
@pytest.mark.parametrize(("options", "dtype", "padded"), MATRIX)
@pytest.mark.parametrize("autocast", [False, True])
def test_outputs_on_a_pretended_cuda_device(
    options: dict[str, object], dtype: torch.dtype, autocast: bool, padded: bool
) -> None:
    # Without gradients, since autograd asks for a real device.
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad(), torch.autocast("cuda", enabled=autocast):
        x, loss, *_ = step(options, dtype, padded)
    assert (x.device.type, x.shape) == ("cuda", (3, PREDICTED, 16))
    assert (loss.dtype, loss.device.type, loss.shape) == (torch.float32, "cuda", ())
