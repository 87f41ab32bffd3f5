"""Texts to vectors or predictions in length-bucketed batches: `sequences.py`, `engine.py`, `encoding.py` in turn."""

# Choices of flags. They stand here so that `--help` need not import numpy or PyTorch.
POOLINGS = ("mean", "first", "max")  # how the vectors of a text's tokens become one
DTYPES = ("float32", "bfloat16")  # bfloat16 by autocast: parameters, layer norms and pooling stay in float32
VECTOR_DTYPES = ("float32", "float16")  # how vectors are stored
# What is read of texts that are too long, see `sequences.encode`, and how a message says so.
KEEPS = {"head": "their head was read", "head-tail": "their head and tail were read", "chunks": "read in chunks"}
