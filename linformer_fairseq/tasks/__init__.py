"""The task `streaming_masked_lm`: masked language modelling on corpora of any size. Read from below:

token_files.py           one split's .bin and .idx, read by position
blocks.py                which tokens block number b holds (complete_blocks.py: whole sentences)
permutation.py           in which order the blocks come, computed and not stored
masking.py               which of their tokens are to be predicted
batches.py               a batch, and fairseq's iterator over the batches of an epoch
streaming_masked_lm.py   what fairseq sees
"""

from linformer_fairseq.tasks.streaming_masked_lm import StreamingMaskedLMConfig, StreamingMaskedLMTask

__all__ = ["StreamingMaskedLMConfig", "StreamingMaskedLMTask"]
