"""The Linformer encoder in plain PyTorch: imports neither fairseq nor transformers. Read `attention.py` first."""

from .attention import LinformerSelfAttention, NoAttention, SelfAttention
from .config import EncoderConfig
from .encoder import LinformerEncoder, LinformerEncoderLayer

__all__ = [
    "EncoderConfig",
    "LinformerEncoder",
    "LinformerEncoderLayer",
    "LinformerSelfAttention",
    "NoAttention",
    "SelfAttention",
]
