"""How far padding and batch neighbours move a sentence's features: ours beside fairseq's examples/linformer.

    python tests/faults/padding.py > docs/benchmarks/padding.md

A sentence of 40 tokens is padded to 48, 64, 128 and 512 tokens, alone and beside full neighbours; the table has the
largest relative change of its features over those. Weights are random but as large as trained ones (std 0.15): at
the start of training a leak is too small to see.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.layers.config import PROJECTIONS, SHARINGS
from linformer_fairseq.measuring.official_example import SHARING, build_official_encoder

TOKENS, LENGTHS, K, VOCABULARY, PAD = 40, (48, 64, 128, 512), 128, 100, 1
Features = Callable[[Tensor], Tensor]


@torch.no_grad()
def largest_change(features: Features, lengths: Sequence[int] = LENGTHS, tokens: int = TOKENS) -> float:
    """Largest relative change of the features (B, N, C) of one sentence when padded and put beside others."""
    torch.manual_seed(0)
    sentence = torch.randint(4, VOCABULARY, (1, tokens))
    reference = features(sentence)[0]
    worst = 0.0
    for n in lengths:
        padded = torch.full((1, n), PAD)
        padded[:, :tokens] = sentence
        neighbours = torch.randint(4, VOCABULARY, (3, n))
        for batch, row in (
            (padded, 0),
            (torch.cat([padded, neighbours]), 0),
            (torch.cat([neighbours, padded]), 3),
        ):
            change = features(batch)[row, :tokens] - reference
            worst = max(worst, (change.norm() / reference.norm()).item())
    return worst


@torch.no_grad()
def at_trained_scale(model: nn.Module, std: float = 0.15) -> nn.Module:
    """Draws every matrix anew, as large as in a trained model; E and F stay as they start."""
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        if p.dim() > 1 and not name.endswith(("E.weight", "F.weight")) and "compress" not in name:
            p.normal_(0, std)
    return model.eval()


def ours(sharing: str, kind: str, k: int = K, n: int = 512, **settings: object) -> Features:
    """Features of our encoder, 2 layers of 64 channels."""
    sizes = {"embed_dim": 64, "ffn_dim": 64, "num_heads": 4, "num_layers": 2, **settings}
    cfg = EncoderConfig(VOCABULARY, PAD, n, projected_length=k, sharing=sharing, projection=kind, **sizes)  # type: ignore[arg-type]
    model = at_trained_scale(LinformerEncoder(cfg))
    return lambda tokens: model(tokens)[0]


def official(sharing: str) -> Features:
    """Features of fairseq's example in the same size."""
    dictionary = Dictionary()
    for i in range(VOCABULARY - len(dictionary)):
        dictionary.add_symbol(f"w{i}")
    sizes = {
        "encoder_layers": 2,
        "encoder_embed_dim": 64,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 4,
    }
    model = at_trained_scale(build_official_encoder(dictionary, sharing, 512, K, **sizes))
    return lambda tokens: model(tokens)["encoder_out"][0].transpose(0, 1)


def main() -> None:
    """Prints the table in Markdown."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| | sharing | projection | largest relative change |\n|---|---|---|---:|")
    for sharing in SHARING:
        print(f"| fairseq's example | {sharing} | linear | {100 * largest_change(official(sharing)):.1f} % |")
    for sharing, kind in itertools.product(SHARINGS, PROJECTIONS):
        print(f"| ours | {sharing} | {kind} | {largest_change(ours(sharing, kind)):.1e} |")


if __name__ == "__main__":
    main()
