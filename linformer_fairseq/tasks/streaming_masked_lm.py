"""The task `streaming_masked_lm`: fairseq's `masked_lm` for corpora of any size and blocks of any length.

Start-up time and memory do not depend on the size of the corpus. As with `masked_lm`, an epoch is one pass over one
folder of DATA, in turn, and a row is <s> with a block of at most --tokens-per-sample - 1 tokens. blocks.py says which
blocks there are, batches.py in which order they come and what is masked.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task
from fairseq.tasks.masked_lm import MaskedLMTask
from omegaconf import II, MISSING

from linformer_fairseq.errors import UsageError
from linformer_fairseq.models.config import flag
from linformer_fairseq.tasks.batches import BlockDataset, BlockIterator, Masking
from linformer_fairseq.tasks.blocks import Blocks, CompleteBlocks, Sentences, TokenFile, Windows

_BLOCKS: dict[str, Callable[[TokenFile, int], Blocks]] = {"none": Windows, "complete": CompleteBlocks, "eos": Sentences}


@dataclass
class StreamingMaskedLMConfig(FairseqDataclass):
    """Settings of the task; those of fairseq's `masked_lm` have its names."""

    data: str = flag(MISSING, "folder of binarised text, or several joined by colons; each is one epoch, in turn")
    sample_break_mode: ChoiceEnum(list(_BLOCKS)) = flag(  # type: ignore[valid-type]
        "none",
        '"none" fills each sample with tokens-per-sample tokens; "complete" begins and ends samples with '
        'sentences wherever they are short enough; "eos" makes each sentence a sample, cut to tokens-per-sample',
    )
    tokens_per_sample: int = flag(512, "most tokens in a sample, <s> included; the model needs as many positions")
    mask_prob: float = flag(0.15, "share of each sample's tokens that is predicted")
    valid_mask_prob: float = flag(0.15, "the same in validation, so that perplexities of different rates compare")
    leave_unmasked_prob: float = flag(0.1, "share of the predicted tokens that the model sees as they are")
    random_token_prob: float = flag(0.1, "share of the predicted tokens that random tokens replace, not <mask>")
    seed: int = II("common.seed")


@register_task("streaming_masked_lm", dataclass=StreamingMaskedLMConfig)
class StreamingMaskedLMTask(MaskedLMTask):
    """Masked language modelling straight from the files; dictionary and inference are those of `masked_lm`."""

    cfg: StreamingMaskedLMConfig

    @classmethod
    def setup_task(cls, cfg: StreamingMaskedLMConfig, **kwargs: Any) -> "StreamingMaskedLMTask":
        """Checks the settings and reads the dictionary, of which a UsageError names what is wrong."""
        check(cfg)
        first, *others = paths = [folder / "dict.txt" for folder in _folders(cfg)]
        try:
            contents = [path.read_bytes() for path in paths]
        except OSError as error:
            raise UsageError(
                f"{error.filename}: {error.strerror}; DATA must be a folder made by `linformer prepare binarize` or "
                "fairseq-preprocess, or several joined by colons"
            ) from None
        for path, content in zip(others, contents[1:], strict=True):
            if content != contents[0]:
                remedy = "binarise all folders of DATA with the same dictionary"
                raise UsageError(f"{path} differs from that of {first.parent}: {remedy}")
        task: StreamingMaskedLMTask = super().setup_task(cfg, **kwargs)
        return task

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """Opens the split of the folder of this epoch; reads only the header and a sample.

        A UsageError refuses one that is missing, empty, damaged or in several files.
        """
        folders = _folders(self.cfg)
        prefix = folders[(epoch - 1) % len(folders)] / split
        if combine and prefix.with_name(f"{split}1.idx").exists():
            remedy = "put each into a folder, and join the folders by colons"
            raise UsageError(f"{prefix}1.idx: a split in several files; {remedy}")
        file = TokenFile(prefix)
        blocks = _BLOCKS[str(self.cfg.sample_break_mode)](file, self.cfg.tokens_per_sample - 1)
        masking = Masking(
            probability=self.cfg.mask_prob if split == "train" else self.cfg.valid_mask_prob,
            leave=self.cfg.leave_unmasked_prob,
            random=self.cfg.random_token_prob,
            special=self.dictionary.nspecial,
            mask=self.mask_idx,
            pad=self.dictionary.pad(),
            symbols=len(self.dictionary),
            seed=self.cfg.seed,
        )
        self.datasets[split] = BlockDataset(file, blocks, masking, self.dictionary.bos())

    def get_batch_iterator(
        self,
        dataset: BlockDataset,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        data_buffer_size: int = 0,
        **options: Any,
    ) -> BlockIterator:
        """An iterator over the batches of an epoch; the arguments are fairseq's.

        Every sample counts as --tokens-per-sample tokens of --max-tokens. --required-batch-size-multiple and sorting
        by length have no effect. A UsageError refuses no batch size, or one too small for a sample.
        """
        length = self.cfg.tokens_per_sample
        sizes = [size for size in (max_sentences, max_tokens and max_tokens // length) if size is not None]
        if not sizes or min(sizes) < 1:
            given = f"--batch-size {max_sentences} and --max-tokens {max_tokens}"
            raise UsageError(f"{given}: give one of them, with room for a sample of --tokens-per-sample {length}")
        names = ("seed", "num_shards", "shard_id", "num_workers", "epoch", "skip_remainder_batch")
        options = {name: options[name] for name in names if name in options}
        dataset.set_epoch(options.get("epoch", 1))
        return BlockIterator(dataset, min(sizes), buffer_size=data_buffer_size, **options)


def check(cfg: Any) -> None:
    """Raise a UsageError for settings that are out of their range."""
    if cfg.tokens_per_sample < 3:
        raise UsageError(f"--tokens-per-sample {cfg.tokens_per_sample}: must be at least 3")
    for flag_name, share in (("--mask-prob", cfg.mask_prob), ("--valid-mask-prob", cfg.valid_mask_prob)):
        if not 0 < share < 1:
            raise UsageError(f"{flag_name} {share}: must lie between 0 and 1")
    kept, drawn = cfg.leave_unmasked_prob, cfg.random_token_prob
    if min(kept, drawn) < 0 or kept + drawn > 1:
        raise UsageError(f"--leave-unmasked-prob {kept} and --random-token-prob {drawn}: must add up to 1 at most")


def _folders(cfg: StreamingMaskedLMConfig) -> list[Path]:
    return [Path(folder) for folder in str(cfg.data).split(os.pathsep)]
