"""Propose k for each layer and the local window W, so that no layer's attention loses more than a bound.

    linformer choose-k all-MiniLM-L6-v2 books/ --error 0.4
    linformer choose-k roberta.base/model.pt texts.txt --data roberta.base --max-positions 4096

MODEL is a BERT or RoBERTa of Hugging Face, a RoBERTa of fairseq, or a checkpoint of this project's. Its exact attention
is compared with the adaptive projection, untrained: each layer gets the input that it has in the exact model, and the
error is ||exact output - output|| / ||exact output|| of its attention sublayer.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from linformer_fairseq.commands.arguments import command_parser, shared_flags
from linformer_fairseq.errors import UsageError
from linformer_fairseq.ranges import POSITIONS, ROWS, real, whole

LENGTHS = (16, 32, 64, 128, 256, 512)
WINDOWS = (0, 16, 32, 64)
Candidate = tuple[int, int]  # k and W


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = command_parser("choose-k", __doc__, parents=[shared_flags("--data")])
    top.add_argument("model", type=Path, metavar="MODEL", help="checkpoint or folder")
    top.add_argument("text", type=Path, nargs="+", metavar="TEXT", help="text files, or folders of .txt files")
    top.add_argument(
        "--error",
        type=real(0, 1000, inside=True),
        default=0.5,
        metavar="BOUND",
        help="in every layer (default: %(default)s)",
    )
    positions = "tokens of a passage (default: the model's longest input); beyond that, positions repeat"
    top.add_argument("--max-positions", type=whole(LENGTHS[0], POSITIONS), metavar="N", help=positions)
    top.add_argument(
        "--passages", type=whole(1, ROWS), default=16, metavar="B", help="passages to look at (default: %(default)s)"
    )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Print the error and cost of all candidates, and the cheapest within the bound; returns the exit status."""
    a = parser().parse_args(argv)

    from linformer_fairseq.checkpoints.checkpoint import encoder_config
    from linformer_fairseq.inference import approximation as by
    from linformer_fairseq.training.flops import FORWARD_AND_BACKWARD, encoder_flops

    _, exact, tokenizer = by.read_model(a.model, a.data, a.max_positions)
    config = encoder_config(exact)
    n = config.max_positions
    passages = by.read_passages(a.text, tokenizer, n, a.passages)
    variants = {(k, w): by.Variant("adaptive", k, w) for w in WINDOWS for k in LENGTHS if k <= n}
    found = by.errors_of(exact, passages, list(variants.values()))
    errors = dict(zip(variants, found.tolist(), strict=True))
    scale = 1e-6 / FORWARD_AND_BACKWARD / n
    costs = {key: scale * encoder_flops(variant.config(config), 1, n) for key, variant in variants.items()}
    whole = scale * encoder_flops(config, 1, n)

    print(f"\nError by layer, of {len(passages)} passages of {n:,} tokens. Cost: MFLOPs a token, forward.")
    print("   k   W    cost", *(f"{i + 1:5}" for i in range(config.num_layers)))
    for k, window in variants:
        print(f"{k:4}{window:4}{costs[k, window]:8.2f}", *(f"{error:5.3f}" for error in errors[k, window]))
    print(f"exact   {whole:8.2f}\n")
    chosen = cheapest(errors, costs, a.error)
    cost = sum(costs[candidate] for candidate in chosen) / len(chosen)
    print(f"At most {a.error} in every layer, for {cost / whole:.0%} of the cost of exact attention:")
    shown = f"--projection adaptive --projected-length {','.join(str(k) for k, _ in chosen)}"
    shown += f" --local-window {chosen[0][1]}"
    # Layers of different k cannot share one E.
    print(shown if len(set(chosen)) == 1 else f"{shown} --projection-sharing key-value")
    if cost >= whole:
        print(f"So at {n:,} tokens exact attention is no dearer: keep it, raise --error, or raise --max-positions.")
    return 0


def cheapest(errors: dict[Candidate, list[float]], costs: dict[Candidate, float], bound: float) -> list[Candidate]:
    """The cheapest candidate of each layer within the bound, with the one W for which they cost least together.

    `errors` are by layer, `costs` those of a model with this k in all layers. UsageError if nothing is within it.
    """
    choices = []
    layers = range(len(next(iter(errors.values()))))
    for window in {window for _, window in errors}:
        within = [[c for c in errors if c[1] == window and errors[c][i] <= bound] for i in layers]
        if all(within):
            chosen = [min(some, key=costs.__getitem__) for some in within]
            choices.append((sum(costs[c] for c in chosen), chosen))
    if not choices:
        raise UsageError(f"--error {bound}: no k with one W keeps every layer within it; choose a higher one")
    return min(choices)[1]
