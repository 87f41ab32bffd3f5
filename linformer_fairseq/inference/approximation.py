"""How well few keys and values stand for all: what each layer's attention loses, beside what rank k allows.

Every layer gets the input that it has in the model with exact attention. An error is relative to what is exact, in the
Frobenius norm over all tokens of all passages: ||exact - approximate|| / ||exact||.

Shapes: B passages, N tokens, H heads, D head dimension, C = H·D channels, R ranks, L layers, V variants.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor
from tqdm import tqdm

from data_prep.encoders import Encoder
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, encoder_config, read
from linformer_fairseq.checkpoints.folders import as_file, read_any
from linformer_fairseq.checkpoints.roberta import from_roberta
from linformer_fairseq.checkpoints.spectral import Seen, attention_of, attention_weights
from linformer_fairseq.checkpoints.warm_start import longer
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.sequences import BOS, EOS, tokenizer_of
from linformer_fairseq.layers import EncoderConfig
from linformer_fairseq.layers.encoder import build_attention
from linformer_fairseq.models.architectures import ARCHITECTURES


def read_model(path: Path, data: Path | None, max_positions: int | None) -> tuple[Checkpoint, Checkpoint, Encoder]:
    """A model as it is, the same with exact attention for inputs of `max_positions` tokens, and its tokenizer.

    `path` is a file of ours or of fairseq's roberta, or a folder of to-hf or of a BERT or RoBERTa of Hugging Face;
    `data` the folder of the tokenizer, by default that of `path`.
    """
    given = read(as_file(path)) if data is None else read_any(path)
    given = given if given.model.get("_name") in ARCHITECTURES else from_roberta(path)
    if given.model.get("attention") == "none":
        raise UsageError(f"{path}: has --attention none, and so no attention to look at; give another model")
    state = {key: value for key, value in given.state.items() if ".E." not in key and ".F." not in key}
    model = {**given.model, "attention": "exact", "local_window": 0}
    return given, longer(given.converted(state=state, model=model), max_positions), tokenizer_of(given, data)


def read_passages(texts: Sequence[Path], encoder: Encoder, length: int, count: int) -> Tensor:
    """`count` passages of `length` tokens, <s> and </s> included, evenly spaced in all text; fewer in little text.

    `texts` are files, or folders of .txt files. Returns (B, N) ids. UsageError for a file that is no text, or if no
    file is as long as a passage.
    """
    files = [file for path in texts for file in (sorted(path.glob("*.txt")) if path.is_dir() else [path])]
    files = files[:: max(1, len(files) // count)]
    found, room = [], length - 2
    for path in tqdm(files, "texts", unit=" files"):
        try:
            ids, _ = encoder.encode([path.read_text(encoding="utf-8")])
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot be read as text in UTF-8 ({error}); give text files") from error
        found += [*ids[: len(ids) // room * room].astype(np.int64).reshape(-1, room)]
    if not found:
        raise UsageError(f"{texts[0]}: no text here has {length} tokens; give longer ones, or a lower --max-positions")
    chosen = [part[len(part) // 2] for part in np.array_split(found, min(count, len(found)))]
    return torch.from_numpy(np.stack([[BOS, *passage, EOS] for passage in chosen]))


class Variant(NamedTuple):
    """Attention to other keys and values than all, without anything that was trained for it."""

    projection: str  # mean-pool, which is how `linear` starts, or adaptive; "" for the window alone
    k: int
    window: int  # W

    def config(self, exact: EncoderConfig) -> EncoderConfig:
        """That of a model with such attention in every layer."""
        if not self.projection:
            return replace(exact, attention="local", local_window=self.window)
        shape = replace(exact, projection=self.projection, sharing="key-value", projected_length=self.k)
        return replace(shape, attention="linformer", local_window=self.window)


def _layers(exact: Checkpoint, passages: Tensor, about: str) -> Iterator[tuple[int, Seen]]:
    """For each passage and layer, the layer's number and what its attention did, with N tokens of one passage."""
    for seen in attention_of(exact, tqdm(torch.split(passages, 1), about, unit=" passages")):
        yield from enumerate(seen)


@torch.no_grad()
def errors_of(exact: Checkpoint, passages: Tensor, variants: list[Variant], own: Checkpoint | None = None) -> Tensor:
    """The error of each variant's output in each layer, (V, L); one more row for `own`, a Linformer, as it is."""
    config = encoder_config(exact)
    made = [build_attention(variant.config(config), 0).eval() for variant in variants]
    trained = None if own is None else build(own).encoder.sentence_encoder
    squares = torch.zeros(len(made) + (trained is not None) + 1, config.num_layers, dtype=torch.float64)
    for index, (attention, x, _, output) in _layers(exact, passages, "errors"):
        for one in made:
            for name in ("q_proj", "k_proj", "v_proj", "out_proj", "local_conv"):
                setattr(one, name, getattr(attention, name))
        lost = [one(x) - output for one in made]
        if trained is not None:
            lost.append(trained.layers[index].self_attn(x, None, trained.E) - output)
        squares[:, index] += torch.stack([*lost, output]).square().sum((1, 2, 3))
    return (squares[:-1] / squares[-1]).sqrt()


@torch.no_grad()
def spectrum_of(exact: Checkpoint, passages: Tensor, ranks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Singular values of P (N, N), the attention weights of a head, and what truncating P to each of the ranks loses.

    Returns the share of the first singular values in the sum of all, (L, H, R), mean over passages; and (2, R, L), the
    errors of P V and of the sublayer's output. The bias of V, which every row of P passes on as it is, is kept.
    """
    config = encoder_config(exact)
    shares = torch.zeros(config.num_layers, config.num_heads, len(ranks), dtype=torch.float64)
    squares = torch.zeros(2, len(ranks) + 1, config.num_layers, dtype=torch.float64)
    for index, (attention, x, _, output) in _layers(exact, passages, "singular values"):
        left, values, right = torch.linalg.svd(attention_weights(attention, x, None)[0])
        shares[index] += (values.cumsum(-1) / values.sum(-1, keepdim=True))[:, [rank - 1 for rank in ranks]]
        v = functional.linear(x[0], attention.v_proj.weight).view(len(x[0]), config.num_heads, -1).transpose(0, 1)
        left, right = left * values.unsqueeze(-2), right @ v  # (H, N, N) and (H, N, D), whose product is P V
        lost = [(left[..., rank:] @ right[:, rank:]).transpose(0, 1).flatten(1) for rank in (*ranks, 0)]
        context = [*lost[:-1], lost[-1] + attention.v_proj.bias]
        outputs = [*(part @ attention.out_proj.weight.t() for part in lost[:-1]), output[0]]
        squares[..., index] += torch.stack([*context, *outputs]).square().sum((1, 2)).view(2, -1)
    return shares / len(passages), (squares[:, :-1] / squares[:, -1:]).sqrt()
