"""`streaming_masked_lm`: blocks.py finds tokens, batches.py orders and masks them. `text_pairs`: rows of texts."""

from linformer_fairseq.tasks.streaming_masked_lm import StreamingMaskedLMConfig, StreamingMaskedLMTask
from linformer_fairseq.tasks.text_pairs import TextPairsTask

__all__ = ["StreamingMaskedLMConfig", "StreamingMaskedLMTask", "TextPairsTask"]
