"""The settings of `linformer_roberta`: the encoder's, from the table in `layers/config.py`, and those of the heads."""

# ruff: noqa: UP045 (fairseq reads the annotations at run time and knows Optional[X], not X | None)

from argparse import Namespace
from dataclasses import Field, dataclass, field, fields, make_dataclass
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import DictConfig

from linformer_fairseq.layers.config import EncoderConfig, option_names, parse_projected_length


def flag(default: Any, text: str) -> Any:
    """A setting of a `FairseqDataclass`, with its help."""
    return field(default=default, metadata={"help": text})


def _setting(row: Field[Any], name: str) -> tuple[str, Any, Any]:
    """Name, type and dataclass field for a row of the table."""
    about, default = row.metadata, row.default
    kind: Any = row.type if row.type in (int, float, bool) else str
    if about["choices"]:
        kind = ChoiceEnum(list(about["choices"]))
    if about["by_arch"]:
        kind, default = Optional[kind], None
    return name, kind, flag(default, about["help"])


_NAMES = option_names("fairseq")
_SETTINGS = [_setting(row, _NAMES[row.name]) for row in fields(EncoderConfig) if row.name in _NAMES]
TRAINED_SETTINGS = [
    _NAMES[row.name] for row in fields(EncoderConfig) if row.name in _NAMES and not row.metadata["training"]
]
_EncoderSettings: Any = make_dataclass("_EncoderSettings", _SETTINGS, bases=(FairseqDataclass,))
_PoolerActivation: Any = ChoiceEnum(["tanh", "gelu", "relu", "linear"])
_OLD = "DEPRECATED, of fairseq's examples/linformer"


@dataclass
class LinformerRobertaConfig(_EncoderSettings):
    """Settings of the model. Where the default is None, the architecture decides (see architectures.py)."""

    compile: bool = flag(
        False,
        "compile the layers with torch.compile: few graphs for all lengths, a minute or two at the start. For GPUs; on "
        "a CPU the layers train faster without. Needs a C++ compiler",
    )
    untie_weights_roberta: bool = flag(False, "give the masked-LM head its own output matrix")
    pooler_activation_fn: _PoolerActivation = flag("tanh", "activation of classification heads")
    pooler_dropout: float = flag(0.0, "dropout of classification heads")
    spectral_norm_classification_head: bool = flag(False, "spectral norm on classification heads (R3F)")
    load_checkpoint_heads: bool = flag(False, "also load the classification heads of a checkpoint")
    compressed: Optional[int] = flag(None, f"{_OLD}: n/k. Use --projected-length")
    shared_kv_compressed: Optional[int] = flag(None, f"{_OLD}. 1 is --projection-sharing key-value")
    shared_layer_kv_compressed: Optional[int] = flag(None, f"{_OLD}. 1 is --projection-sharing layerwise")
    freeze_compress: Optional[int] = flag(None, f"{_OLD}. 1 is --freeze-projection")


def encoder_config(cfg: Namespace | DictConfig, vocab_size: int, pad_index: int) -> EncoderConfig:
    """The encoder's configuration for complete fairseq settings; a ValueError names the flags that do not fit."""
    found = {ours: getattr(cfg, name) for ours, name in _NAMES.items()}
    # A choice may be a member of fairseq's enumeration.
    found |= {row.name: str(found[row.name]) for row in fields(EncoderConfig) if row.metadata["choices"]}
    found["projected_length"] = parse_projected_length(cfg.projected_length)
    return EncoderConfig(vocab_size=vocab_size, pad_index=pad_index, **found)
