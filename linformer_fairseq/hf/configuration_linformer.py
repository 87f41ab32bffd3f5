"""The configuration of a Linformer in transformers."""

from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig

from ..layers.config import EncoderConfig, option_names


class LinformerConfig(PretrainedConfig):
    """Sizes and options of a Linformer (Wang et al. 2020, arXiv 2006.04768).

    It takes every option of the table in `layers/config.py` that has a name in `hf`, such as `hidden_size`,
    `projected_length` (one, or a list of one per layer), `projection` and `local_conv`; of the classification head,
    `classifier_act` (`tanh`, `gelu`, `relu` or `linear`) and `classifier_dropout` (None for `hidden_dropout_prob`);
    `initializer_range`, the standard deviation of new parameters; and what every configuration has, such as
    `num_labels`. Unlike RoBERTa's, `max_position_embeddings` counts no rows before the first position. A combination
    that cannot work raises a ValueError whose message names the options by their fairseq flags.
    """

    model_type = "linformer"
    use_cache = is_decoder = add_cross_attention = False  # which programs for RoBERTa turn off by keyword

    def __init__(self, **kwargs: Any) -> None:
        own: dict[str, Any] = {key: getattr(EncoderConfig, ours) for ours, key in option_names("hf").items()}
        own |= {"classifier_act": "tanh", "classifier_dropout": 0.0, "initializer_range": 0.02}
        own |= {"bos_token_id": 0, "eos_token_id": 2, "tie_word_embeddings": True}
        super().__init__(**own | kwargs)
        self.encoder()

    def encoder(self) -> EncoderConfig:
        """What the encoder is made of."""
        if self.is_decoder or self.add_cross_attention:
            raise ValueError("is_decoder or add_cross_attention is True; a Linformer is an encoder, so leave both out")
        found = {ours: getattr(self, key) for ours, key in option_names("hf").items()}
        k = self.projected_length
        return EncoderConfig(**found | {"projected_length": k if isinstance(k, int) else tuple(k)})

    @classmethod
    def of_encoder(cls, encoder: EncoderConfig, **settings: Any) -> "LinformerConfig":
        """The configuration with this encoder, and other settings by name; the inverse of `encoder`."""
        found = {key: getattr(encoder, ours) for ours, key in option_names("hf").items()}
        k = encoder.projected_length
        return cls(**found | {"projected_length": k if isinstance(k, int) else list(k)}, **settings)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
