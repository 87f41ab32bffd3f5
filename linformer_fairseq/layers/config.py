"""The table of an encoder's options, and the checks of their combinations. Messages name options by their flags.

A new option is one line of `EncoderConfig` and the code that uses it: fairseq's flags, the keys of Hugging Face's
config.json, the conversion between them and what `linformer convert inspect` shows are derived from the table.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any

ATTENTIONS = ("linformer", "exact", "local", "none")
PROJECTIONS = ("linear", "mean-pool", "max-pool", "conv", "adaptive")
SHARINGS = ("none", "headwise", "key-value", "layerwise")
INITS = ("block-mean", "normal")
ACTIVATIONS = ("gelu", "relu")


def option(
    default: Any, help: str, fairseq: str | None = None, hf: str | None = None, label: str = "", **more: Any
) -> Any:
    """A row of the table.

    Args:
        fairseq, hf: name of fairseq's setting and key in config.json; by default the field's, "" if there is none.
        label: shown by `linformer convert inspect` and in model cards; "" to leave the option out there.
        more: `choices`, the allowed values; `limits`, the lowest allowed value and the first that is too high;
            `by_arch`, True if fairseq's default is None, for the architecture to fill in; `training`, True if a
            trained model may be used with another value.
    """
    about = dict(fairseq=fairseq, hf=hf, label=label, choices=(), limits=None, by_arch=False, training=False) | more
    about["help"] = f"{help} (default: that of --arch)" if about["by_arch"] else help
    return field(default=default, metadata=about)


def size(default: int, help: str, fairseq: str | None = None, hf: str | None = None, label: str = "") -> Any:
    """A row of the table for a number of at least 1 that the architecture decides."""
    return option(default, help, fairseq, hf, label or help, limits=(1, 2**21), by_arch=True)


def probability(default: float, help: str, fairseq: str | None = None, hf: str | None = None) -> Any:
    """A row of the table for a dropout."""
    return option(default, help, fairseq, hf, limits=(0, 1), training=True)


@dataclass(frozen=True)
class EncoderConfig:
    """Options of one encoder (paper = Wang et al. 2020, arXiv 2006.04768).

    A combination that cannot work raises a ValueError whose message names the flag.
    """

    vocab_size: int = option(50265, "rows of the token embedding, special symbols included", fairseq="")
    pad_index: int = option(1, "id of the padding symbol", fairseq="", hf="pad_token_id")
    max_positions: int = size(
        512,
        "n of the paper: longest input in tokens; without one, --tokens-per-sample",
        hf="max_position_embeddings",
        label="longest input n",
    )
    embed_dim: int = size(768, "channels", "encoder_embed_dim", "hidden_size")
    ffn_dim: int = size(3072, "feed-forward channels", "encoder_ffn_embed_dim", "intermediate_size")
    num_heads: int = size(12, "attention heads", "encoder_attention_heads", "num_attention_heads", "heads")
    num_layers: int = size(12, "layers", "encoder_layers", "num_hidden_layers")
    projected_length: int | tuple[int, ...] = option(
        128,
        "k of the paper: keys and values of n tokens are projected to k. One whole number, or one per layer, first "
        "layer first, separated by commas (non-uniform k); without one, n/4 but at most 256",
        label="projected length k",
        by_arch=True,
    )
    projection: str = option(
        "linear",
        "kind of E and F: a learned k x n matrix (linear); a pooling or depthwise convolution over blocks of n/k "
        "tokens (mean-pool, max-pool, conv); or weighted means over blocks that follow the length of the text, so that "
        "attention is exact up to k tokens (adaptive)",
        label="projection",
        choices=PROJECTIONS,
    )
    sharing: str = option(
        "layerwise",
        "which E and F are one matrix (paper, section 4). none: own E and F for every head and layer; headwise: E and "
        "F for every layer; key-value: one E = F for every layer; layerwise: one E = F for the whole model",
        fairseq="projection_sharing",
        hf="projection_sharing",
        label="sharing",
        choices=SHARINGS,
    )
    projection_init: str = option(
        "block-mean",
        "initial E and F: averages of n/k neighbours plus a little noise (block-mean), or the paper's N(0, 1/k) "
        "(normal)",
        choices=INITS,
        training=True,
    )
    projection_lr_scale: float = option(
        0.1,
        "learning rate of E and F as a multiple of --lr, for optimizers whose step does not depend on the size of the "
        "gradient, such as adam and lamb",
        limits=(0, 1e6),
    )
    freeze_projection: bool = option(False, "keep the initial E and F", training=True)
    attention: str = option(
        "linformer",
        "linformer, or a control with everything else equal: exact (softmax over all tokens), local (only the "
        "neighbours of --local-window) or none",
        label="attention",
        choices=ATTENTIONS,
    )
    local_window: int = option(
        0,
        "W: each token attends exactly to itself and to its W neighbours on each side, beside the projected slots of "
        "the rest, in one softmax; 0 for none, as in the paper",
        label="local window",
        limits=(0, 2**21),
    )
    local_conv: int = option(
        0,
        "width of a depthwise convolution over the values, added to the attention output; odd, or 0 for none, as in "
        "the paper",
        label="local convolution",
        limits=(0, 2**16),
        by_arch=True,
    )
    position_grid: int = option(
        0,
        "S: for images of S x S tokens in raster order behind <s>, a pixel's position is a learned one of its row plus "
        "one of its column; 0 for a position of its own for each token",
        label="position grid",
        limits=(0, 2**10),
    )
    dropout: float = probability(0.1, "dropout of embeddings and sublayer outputs", hf="hidden_dropout_prob")
    attention_dropout: float = probability(0.1, "dropout of attention weights", hf="attention_probs_dropout_prob")
    activation_dropout: float = probability(0.0, "dropout after the activation of the feed-forward sublayer")
    activation: str = option(
        "gelu", "activation of the feed-forward sublayer", "activation_fn", "hidden_act", choices=ACTIVATIONS
    )
    layer_norm_eps: float = option(1e-5, "added to the variance in every layer norm", limits=(0, 1))
    normalize_before: bool = option(
        False,
        "layer norm before each sublayer instead of after it (pre-LN)",
        "encoder_normalize_before",
        label="pre-LN",
        by_arch=True,
    )
    layerdrop: float = probability(
        0.0, "probability of skipping a layer in training (Fan et al. 2019)", "encoder_layerdrop"
    )
    checkpoint_activations: bool = option(
        False,
        "keep only the input of each layer and compute the rest again in the backward pass: less memory",
        hf="",  # transformers has its own switch
        training=True,
    )

    def __post_init__(self) -> None:
        flags = option_names("fairseq")
        for row in fields(self):
            flag, value = "--" + flags.get(row.name, row.name).replace("_", "-"), getattr(self, row.name)
            choices, limits = row.metadata["choices"], row.metadata["limits"]
            if choices and value not in choices:
                raise ValueError(f"{flag} is {value!r}; it must be one of {', '.join(choices)}")
            if limits and not limits[0] <= value < limits[1]:
                upper = f" and below {limits[1]}" if limits[1] < math.inf else ""
                raise ValueError(f"{flag} is {value}; it must be at least {limits[0]}{upper}")
        if not self.projection_lr_scale > 0:
            remedy = "it must be above 0 (to keep E and F as they start, use --freeze-projection)"
            raise ValueError(f"--projection-lr-scale is {self.projection_lr_scale}; {remedy}")
        if self.embed_dim % self.num_heads:
            heads = f"--encoder-attention-heads {self.num_heads}"
            raise ValueError(f"--encoder-embed-dim {self.embed_dim} cannot be split over {heads}; choose a divisor")
        if self.local_conv and self.local_conv % 2 == 0:
            remedy = "its width must be odd, so that it is centred on a token, or 0 for no convolution"
            raise ValueError(f"--local-conv is {self.local_conv}; {remedy}")
        if self.attention != "linformer" and (self.local_window > 0) != (self.attention == "local"):
            known = "linformer takes any window, local one of at least 1, exact and none have none"
            given = f"--local-window {self.local_window} does not go with --attention {self.attention}"
            raise ValueError(f"{given}: {known}")
        if self.position_grid and self.position_grid**2 + 2 > self.max_positions:
            needed = f"needs {self.position_grid**2 + 2} positions, for its pixels, <s> and </s>"
            raise ValueError(f"--position-grid {self.position_grid} {needed}, not --max-positions {self.max_positions}")
        if self.attention == "linformer":
            self._check_lengths()

    def _check_lengths(self) -> None:
        n, lengths = self.max_positions, self.lengths
        given = f"--projected-length {','.join(map(str, lengths))}"
        if len(lengths) != self.num_layers:
            found = f"{given} has {len(lengths)} entries for --encoder-layers {self.num_layers}"
            raise ValueError(f"{found}; give one length for all layers or one per layer")
        for k in lengths:
            if not 1 <= k <= n:
                raise ValueError(f"--projected-length {k} does not lie between 1 and --max-positions {n}")
            if self.projection == "adaptive" and k < 3:
                ends = "keeps a slot each for the first and the last token; give at least 3"
                raise ValueError(f"--projected-length {k} is too small for --projection adaptive, which {ends}")
            if self.projection not in ("linear", "adaptive") and n % k:
                found = f"--max-positions {n} is not a multiple of --projected-length {k}; choose a divisor of {n}"
                raise ValueError(f"--projection {self.projection} pools blocks of n/k tokens, and {found}")
        if self.one_for_all_layers and len(set(lengths)) > 1:
            remedy = "give one length, or a model with --projection-sharing key-value"
            raise ValueError(
                f"--projection-sharing layerwise has one matrix for all layers and cannot serve {given}; {remedy}"
            )

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def lengths(self) -> tuple[int, ...]:
        """k of each layer, first to last."""
        k = self.projected_length
        return (k,) * self.num_layers if isinstance(k, int) else tuple(k)

    @property
    def learns_projection(self) -> bool:
        """Whether E and F have parameters; pooling has none, so that sharing means nothing for it."""
        return self.attention == "linformer" and self.projection in ("linear", "conv", "adaptive")

    @property
    def one_for_all_layers(self) -> bool:
        return self.learns_projection and self.sharing == "layerwise"

    @property
    def separate_e_and_f(self) -> bool:
        return self.learns_projection and self.sharing in ("none", "headwise")

    @property
    def one_per_head(self) -> bool:
        return self.learns_projection and self.sharing == "none"


def option_names(system: str) -> dict[str, str]:
    """Names of the options in `fairseq` or `hf` by their names here, of those that are available there."""
    names = {row.name: row.metadata[system] for row in fields(EncoderConfig)}
    return {ours: ours if name is None else name for ours, name in names.items() if name != ""}


def parse_projected_length(text: str | int) -> int | tuple[int, ...]:
    """Parse `--projected-length`: "256" is 256, "256,128" is one length per layer; ValueError for anything else."""
    try:
        lengths = tuple(int(part) for part in str(text).split(","))
    except ValueError:
        remedy = "give a whole number, e.g. 256, or one per layer, e.g. 256,256,128,128"
        raise ValueError(f"--projected-length is {text!r}; {remedy}") from None
    return lengths[0] if len(lengths) == 1 else lengths
