"""Attention transfer: E and F are fitted until each layer of a Linformer gives what exact attention gives.

This is a regression: every layer gets the inputs that it has in the exact model, so that all layers learn at once, no
labels are needed, and a few hundred steps on little text are enough.
"""

from collections.abc import Iterable
from itertools import cycle, islice

import torch
from torch import Tensor
from tqdm import tqdm

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, encoder_config
from linformer_fairseq.checkpoints.spectral import attention_of
from linformer_fairseq.checkpoints.warm_start import longer
from linformer_fairseq.errors import UsageError

LR = 1e-2  # at the first step, falling to zero linearly; E and F move `projection_lr_scale` times as fast


def transfer(
    exact: Checkpoint, linformer: Checkpoint, batches: Iterable[Tensor], steps: int = 200
) -> tuple[Checkpoint, list[float]]:
    """Fit the attention of `linformer`, after its output projection, to that of `exact`, from which it was made.

    Each step of Adam takes one of the `batches` of ids (B, N), in turn. Returns the fitted checkpoint, and for each
    step the squared error relative to the squared output, mean over layers. UsageError for two models that do not
    belong together, nothing to fit, or no text.
    """
    config = encoder_config(linformer)
    if not config.learns_projection:
        raise UsageError(f"--transfer: --projection {config.projection} has nothing to fit")
    if config.num_layers != encoder_config(exact).num_layers:
        raise UsageError("--transfer: the two models have different numbers of layers")
    kept = list(batches)
    if not kept:
        raise UsageError("--transfer: --sample holds no text")
    student = build(linformer)
    student.requires_grad_(False)
    fitted = [parameter for name, parameter in student.named_parameters() if name.endswith((".E.weight", ".F.weight"))]
    for parameter in fitted:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(fitted, lr=LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, steps))
    encoder = student.encoder.sentence_encoder
    losses: list[float] = []
    bar = tqdm(islice(cycle(kept), steps), "attention transfer", steps, unit=" steps")
    for seen in attention_of(longer(exact, config.max_positions), bar):
        errors = []
        for layer, (_, x, keep, target) in zip(encoder.layers, seen, strict=True):
            output = layer.self_attn(x, keep, encoder.E)
            if keep is not None:
                output, target = output[keep], target[keep]
            errors.append((output - target).square().sum() / target.square().sum().clamp_min(1e-12))
        loss = torch.stack(errors).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix_str(f"error {losses[-1]:.4f}", refresh=False)
    note = {"conversion": "attention transfer", "steps": steps, "lr": LR, "errors": losses[:1] + losses[-1:]}
    return linformer.converted(note, state={key: value.detach() for key, value in student.state_dict().items()}), losses
