"""The Linformer encoder in plain PyTorch: no fairseq and no transformers in here. Read `attention.py` first."""

from linformer_fairseq.layers.attention import LinformerSelfAttention, LocalConv, NoAttention, SelfAttention
from linformer_fairseq.layers.config import EncoderConfig
from linformer_fairseq.layers.encoder import LinformerEncoder, LinformerEncoderLayer
from linformer_fairseq.layers.projection import ConvProjection, LinearProjection, PoolProjection

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
