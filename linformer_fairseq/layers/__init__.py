"""The Linformer encoder in plain PyTorch: no fairseq and no transformers in here. Read `attention.py` first."""

from .attention import LinformerSelfAttention, LocalConv, NoAttention, SelfAttention
from .config import EncoderConfig
from .encoder import LinformerEncoder, LinformerEncoderLayer
from .projection import ConvProjection, LinearProjection, PoolProjection

__all__ = [
    "ConvProjection",
    "EncoderConfig",
    "LinearProjection",
    "LinformerEncoder",
    "LinformerEncoderLayer",
    "LinformerSelfAttention",
    "LocalConv",
    "NoAttention",
    "PoolProjection",
    "SelfAttention",
]
