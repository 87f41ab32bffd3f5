"""The encoder for Hugging Face transformers: imports `layers/`, never fairseq.

`modeling_linformer.py` and `configuration_linformer.py` are also what an exported folder holds, beside the files of
`layers/`; only their imports differ (see `checkpoints/huggingface.py`).
"""
