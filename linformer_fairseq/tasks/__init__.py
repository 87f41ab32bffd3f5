"""The task `streaming_masked_lm`, for corpora of any size: blocks.py finds tokens, batches.py orders and masks them."""

from linformer_fairseq.tasks.streaming_masked_lm import StreamingMaskedLMConfig, StreamingMaskedLMTask

__all__ = ["StreamingMaskedLMConfig", "StreamingMaskedLMTask"]
