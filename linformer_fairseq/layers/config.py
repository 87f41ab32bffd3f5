"""What an encoder is made of, checked once: every impossible combination is refused here, by flag name."""

from __future__ import annotations

from dataclasses import dataclass

ATTENTIONS = ("linformer", "exact", "none")
PROJECTIONS = ("linear", "mean-pool", "max-pool", "conv")
SHARINGS = ("none", "headwise", "key-value", "layerwise")
INITS = ("block-mean", "normal")
ACTIVATIONS = ("gelu", "relu")


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and options of one encoder (paper = Wang et al. 2020, arXiv 2006.04768).

    Attributes:
        vocab_size: number of rows of the token embedding, special symbols included.
        pad_index: id of the padding symbol.
        max_positions: n of the paper, the longest input in tokens.
        projected_length: k of the paper, one per layer, or one for all layers.
        projection: kind of E and F: a learned matrix, pooling, or a strided convolution (section 4).
        sharing: which E and F are the same matrix (section 4).
        projection_init: how a learned E and F start.
        projection_lr_scale: learning rate of E and F relative to the rest, for Adam-like optimizers.
        freeze_projection: keep E and F as they start.
        attention: `linformer`, or a control with everything else equal: `exact` softmax attention over all
            tokens, or `none`.
        local_conv: width of the depthwise convolution over the values, 0 for none.
        normalize_before: layer norm before each sublayer (pre-LN) instead of after it, as RoBERTa has it.

    Raises:
        ValueError: a combination that cannot work, in one sentence that names the flag.
    """

    vocab_size: int
    pad_index: int = 1
    max_positions: int = 512
    embed_dim: int = 768
    ffn_dim: int = 3072
    num_heads: int = 12
    num_layers: int = 12
    projected_length: int | tuple[int, ...] = 128
    projection: str = "linear"
    sharing: str = "layerwise"
    projection_init: str = "block-mean"
    projection_lr_scale: float = 0.1
    freeze_projection: bool = False
    attention: str = "linformer"
    local_conv: int = 0
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    activation: str = "gelu"
    normalize_before: bool = False
    layerdrop: float = 0.0
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_sizes()
        if self.attention == "linformer":
            self._check_lengths()

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
        return self.attention == "linformer" and self.projection in ("linear", "conv")

    @property
    def one_for_all_layers(self) -> bool:
        return self.learns_projection and self.sharing == "layerwise"

    @property
    def separate_e_and_f(self) -> bool:
        return self.learns_projection and self.sharing in ("none", "headwise")

    @property
    def one_per_head(self) -> bool:
        return self.learns_projection and self.sharing == "none"

    def _check_choices(self) -> None:
        for flag, value, choices in (
            ("--attention", self.attention, ATTENTIONS),
            ("--projection", self.projection, PROJECTIONS),
            ("--projection-sharing", self.sharing, SHARINGS),
            ("--projection-init", self.projection_init, INITS),
            ("--activation-fn", self.activation, ACTIVATIONS),
        ):
            if value not in choices:
                raise ValueError(f"{flag} is {value!r}; it must be one of {', '.join(choices)}")
        if not self.projection_lr_scale > 0:
            raise ValueError(
                f"--projection-lr-scale is {self.projection_lr_scale}; it must be above 0 "
                "(to keep E and F as they start, use --freeze-projection)"
            )
        for flag, p in (
            ("--dropout", self.dropout),
            ("--attention-dropout", self.attention_dropout),
            ("--activation-dropout", self.activation_dropout),
            ("--encoder-layerdrop", self.layerdrop),
        ):
            if not 0 <= p < 1:
                raise ValueError(f"{flag} is {p}; a probability from 0 up to, not including, 1 is needed")

    def _check_sizes(self) -> None:
        for flag, size in (
            ("--max-positions", self.max_positions),
            ("--encoder-layers", self.num_layers),
            ("--encoder-embed-dim", self.embed_dim),
            ("--encoder-ffn-embed-dim", self.ffn_dim),
            ("--encoder-attention-heads", self.num_heads),
        ):
            if size < 1:
                raise ValueError(f"{flag} is {size}; it must be at least 1")
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"--encoder-embed-dim {self.embed_dim} cannot be split over "
                f"--encoder-attention-heads {self.num_heads}; choose a divisor"
            )
        if self.local_conv < 0 or (self.local_conv and self.local_conv % 2 == 0):
            raise ValueError(
                f"--local-conv is {self.local_conv}; its width must be odd, so that it is centred on a token, "
                "or 0 for no convolution"
            )

    def _check_lengths(self) -> None:
        n, lengths = self.max_positions, self.lengths
        given = ",".join(map(str, lengths))
        if len(lengths) != self.num_layers:
            raise ValueError(
                f"--projected-length {given} has {len(lengths)} entries for --encoder-layers {self.num_layers}; "
                "give one length for all layers or one per layer"
            )
        for k in lengths:
            if not 1 <= k <= n:
                raise ValueError(
                    f"--projected-length {k} does not lie between 1 and --max-positions {n}; "
                    "a Linformer projects n tokens to k <= n"
                )
            if self.projection != "linear" and n % k:
                raise ValueError(
                    f"--projection {self.projection} pools blocks of n/k tokens, and --max-positions {n} is not a "
                    f"multiple of --projected-length {k}; choose a divisor of {n}"
                )
        if self.one_for_all_layers and len(set(lengths)) > 1:
            raise ValueError(
                f"--projection-sharing layerwise has one matrix for all layers and cannot serve "
                f"--projected-length {given}; give one length, or use --projection-sharing key-value"
            )


def parse_projected_length(text: str | int) -> int | tuple[int, ...]:
    """Reads `--projected-length`: "256" is 256, "256,128" is one length per layer.

    Raises:
        ValueError: not whole numbers.
    """
    try:
        lengths = tuple(int(part) for part in str(text).split(","))
    except ValueError:
        raise ValueError(
            f"--projected-length is {text!r}; give a whole number, e.g. 256, or one per layer, e.g. 256,256,128,128"
        ) from None
    return lengths[0] if len(lengths) == 1 else lengths
