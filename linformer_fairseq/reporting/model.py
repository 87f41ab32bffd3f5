"""What a checkpoint does: the masked tokens that it fills in, what its tokens attend to, and what E has become.

Shapes: N tokens, K slots, H heads, V symbols, n the longest input.
"""

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor

from data_prep.encoded import read_data
from data_prep.encoders import Encoder
from data_prep.fairseq_dict import MASK
from data_prep.palette import PaletteEncoder
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, encoder_config
from linformer_fairseq.inference.sequences import BOS, EOS
from linformer_fairseq.layers.projection import LearnedProjection

LONGEST = 128  # tokens of a sample
SHARE = 0.15  # of the tokens are masked
PIXELS = (64, 256)  # of a picture of E, at most: rows, columns


class Filled(NamedTuple):
    """A validation sample: (N,) ids, which of them were masked, and the model's ids in their places."""

    ids: Tensor
    masked: Tensor
    filled: Tensor

    def texts(self, encoder: Encoder) -> dict[str, list[tuple[str, bool]]]:
        """The text with what was masked marked, and the model's with the tokens marked that are others, by label."""
        ends = {BOS: "", EOS: "\n"}

        def pane(ids: Tensor, marks: Tensor) -> list[tuple[str, bool]]:
            parts = [ends.get(i, encoder.surfaces[i].decode(errors="replace")) for i in ids.tolist()]
            return list(zip(parts, marks.tolist(), strict=True))

        return {
            "text, with what was masked marked": pane(self.ids, self.masked),
            "what the model fills in, with other tokens marked": pane(self.filled, self.ids != self.filled),
        }

    def pictures(self, encoder: PaletteEncoder) -> dict[str, bytes]:
        """The image, what the model sees and what it fills in: PNG files by label, one pixel for one of the image."""
        given = self.ids.masked_fill(self.masked, encoder.names.index(MASK))
        found = {}
        for label, ids in {"image": self.ids, "what the model sees": given, "what it fills in": self.filled}.items():
            content = BytesIO()
            Image.fromarray(encoder.picture(ids[1 : 1 + encoder.side**2].numpy())).save(content, "PNG")
            found[label] = content.getvalue()
        return found


class Looking:
    """A checkpoint as a model; UsageError if it is not one of this project's."""

    def __init__(self, checkpoint: Checkpoint, encoder: Encoder) -> None:
        self.config = encoder_config(checkpoint)
        self.model = build(checkpoint)
        self.encoder = encoder

    @torch.no_grad()
    def fill(self, prefix: Path, samples: int, seed: int) -> list[Filled]:
        """Mask tokens of random parts of `prefix.bin`, or of whole images, and fill them in."""
        data, choose = read_data(prefix), np.random.default_rng(seed)
        starts = np.cumsum(data.sizes, dtype=np.int64) - data.sizes
        length = min(LONGEST, self.config.max_positions) - 1
        if isinstance(self.encoder, PaletteEncoder):
            length = self.encoder.side**2 + 1
            starts = np.arange(0, len(data.tokens), length + 1)  # an image, the end of its text and of its document
        found = []
        for _ in range(samples if len(starts) else 0):
            begin = int(choose.choice(starts))
            ids = torch.from_numpy(np.append(BOS, data.tokens[begin : begin + length].astype(np.int64)))
            masked = torch.from_numpy(choose.random(len(ids)) < SHARE) & (ids != BOS) & (ids != EOS)
            given = ids.masked_fill(masked, self.encoder.names.index(MASK))
            logits = self.model(given.unsqueeze(0))[0][0]
            found.append(Filled(ids, masked, torch.where(masked, logits.argmax(-1), ids)))
        return found

    @torch.no_grad()
    def attention(self, ids: Tensor) -> list[tuple[str, Tensor]]:
        """For each layer: `slots`, or `tokens` where each is a slot of its own, and weights (N, K), mean of heads."""
        encoder = self.model.encoder.sentence_encoder
        _, hiddens = encoder(ids.unsqueeze(0), return_all_hiddens=True)
        weights = encoder.attention_weights(hiddens, torch.ones(1, len(ids), dtype=torch.bool))
        kinds = [("slots", slots) if slots.size(-1) else ("tokens", tokens) for slots, tokens in weights]
        return [(kind, found[0].mean(0)) for kind, found in kinds if found.size(-1)]

    @torch.no_grad()
    def projections(self) -> dict[str, Tensor]:
        """E and F by layer, mean of heads, large ones as means of neighbours: (k, n), or taps or scores of channels."""
        found = {}
        for name, module in self.model.encoder.sentence_encoder.named_modules():
            if isinstance(module, LearnedProjection):
                matrix = module.matrix().float()
                matrix = matrix.mean(0) if matrix.dim() == 3 else matrix.view(-1, matrix.size(-1))
                parts = name.split(".")
                layer = f"layer {int(parts[1]) + 1}" if len(parts) > 1 else "all layers"
                size = min(matrix.size(0), PIXELS[0]), min(matrix.size(1), PIXELS[1])
                found[f"{layer}, {parts[-1]}"] = functional.adaptive_avg_pool2d(matrix[None], size)[0]
        return found


def heatmap(matrix: Tensor, **look: Any) -> list[dict[str, Any]]:
    """A matrix as what plotly draws, with three digits; what is not finite is 0."""
    rows = matrix.nan_to_num(0.0, 0.0, 0.0).tolist()
    return [{"type": "heatmap", "z": [[float(f"{value:.3g}") for value in row] for row in rows], **look}]
