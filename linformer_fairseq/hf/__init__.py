"""The encoder for Hugging Face transformers: imports `layers/`, never fairseq.

An exported folder holds these files beside those of `layers/`; only their imports differ (see
`checkpoints/huggingface.py`).
"""
