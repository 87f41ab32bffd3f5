"""Texts to vectors or predictions in length-bucketed batches. Read `sequences.py`, `engine.py`, `encoding.py` in turn.

These values of flags stand here so that `--help` need not import numpy or PyTorch.
"""

POOLINGS = ("mean", "first", "max")
"""How the vectors of a text's tokens become one."""

DTYPES = ("float32", "bfloat16")
"""What a model computes in; `bfloat16` is autocast: parameters, layer norms and pooling stay in float32."""

VECTOR_DTYPES = ("float32", "float16")
"""How vectors are stored."""

KEEPS = ("head", "head-tail", "chunks")
"""What is read of texts that are longer than the model reads, see `sequences.encode`."""
