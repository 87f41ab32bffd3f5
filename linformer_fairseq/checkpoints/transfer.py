"""Attention transfer: E and F are fitted until each layer of a Linformer gives what exact attention gives.

A regression and no training: every layer sees the inputs that it has in the exact model, so that no layer waits for
another, no labels are needed, and a few hundred steps on little text are enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, encoder_config
from linformer_fairseq.checkpoints.warm_start import attentions, longer
from linformer_fairseq.errors import UsageError

TRAINED = ("E", "F")
QUERIES_KEYS_VALUES = ("q_proj", "k_proj", "v_proj")


def transfer(
    exact: Checkpoint,
    linformer: Checkpoint,
    batches: Iterable[Tensor],
    steps: int = 200,
    lr: float = 1e-2,
    also_qkv: bool = False,
) -> tuple[Checkpoint, list[float]]:
    """Fits the attention of `linformer`, after its output projection, to that of `exact`, in every layer at once.

    Args:
        exact: what `linformer` was made from.
        linformer: as `to_linformer` returns it.
        batches: ids (B, N), one batch a step; from the first one again when they are used up.
        steps: of Adam.
        lr: at the first step, falling to zero linearly; E and F move `projection_lr_scale` times as fast, and q, k and
            v a hundredth.
        also_qkv: fit the query, key and value projections as well.

    Returns:
        The fitted checkpoint, and for each step the squared error relative to the squared output, mean over layers.

    Raises:
        UsageError: two models that do not belong together, nothing to fit, or no text.
    """
    config = encoder_config(linformer)
    if config.attention != "linformer" or not (config.learns_projection or also_qkv):
        raise UsageError(f"--transfer: --projection {config.projection} has nothing to fit")
    if config.num_layers != encoder_config(exact).num_layers:
        raise UsageError("--transfer: the two models have different numbers of layers")
    teacher, student = build(longer(exact, config.max_positions)), build(linformer)
    parameters = _choose(student, also_qkv)
    optimizer = torch.optim.Adam(
        [{"params": fast, "lr": rate} for fast, rate in zip(parameters, (lr, lr / 100), strict=True) if fast]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, steps))
    teacher_layers, student_layers = attentions(teacher), attentions(student)
    captured = _capture(teacher_layers)
    shared = student.encoder.sentence_encoder.E
    losses: list[float] = []
    source = _again_and_again(batches)
    for _ in (bar := tqdm(range(steps), desc="attention transfer", unit=" steps")):
        with torch.no_grad():
            teacher(next(source), features_only=True)
        errors = [
            _relative_error(layer(x, keep, shared), target, keep)
            for layer, (x, keep, target) in zip(student_layers, captured, strict=True)
        ]
        captured.clear()
        loss = torch.stack(errors).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix_str(f"error {losses[-1]:.4f}", refresh=False)
    note: dict[str, Any] = {"conversion": "attention transfer", "steps": steps, "lr": lr, "also_qkv": also_qkv}
    note["errors"] = [losses[0], losses[-1]] if losses else []
    state = {key: value.detach() for key, value in student.state_dict().items()}
    notes = [*linformer.notes, note]
    return Checkpoint(state, dict(linformer.model), dict(linformer.task), linformer.updates, notes), losses


def _choose(student: nn.Module, also_qkv: bool) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What is fitted: E and F, and the queries, keys and values; all else stays as it is."""
    projections, others = [], []
    for name, parameter in student.named_parameters():
        parts = name.split(".")
        is_projection = parts[-2] in TRAINED
        is_other = also_qkv and parts[-2] in QUERIES_KEYS_VALUES
        parameter.requires_grad_(is_projection or is_other)
        if is_projection:
            projections.append(parameter)
        elif is_other:
            others.append(parameter)
    return projections, others


def _capture(layers: Iterable[nn.Module]) -> list[tuple[Tensor, Tensor | None, Tensor]]:
    """A list to which every forward pass appends each layer's input (B, N, C), its keep and its output."""
    captured: list[tuple[Tensor, Tensor | None, Tensor]] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, given, output: captured.append((given[0], given[1], output)))
    return captured


def _relative_error(output: Tensor, target: Tensor, keep: Tensor | None) -> Tensor:
    """Squared error over real tokens, relative to the squared target."""
    if keep is not None:
        output, target = output[keep], target[keep]
    return (output - target).square().sum() / target.square().sum().clamp_min(1e-12)


def _again_and_again(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    kept = list(batches)
    if not kept:
        raise UsageError("--transfer: --sample holds no text")
    while True:
        yield from kept
