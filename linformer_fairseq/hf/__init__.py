"""The encoder for transformers, without fairseq. An exported folder holds copies of these files and of `layers/`."""
