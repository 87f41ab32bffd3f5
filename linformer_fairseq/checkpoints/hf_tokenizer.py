"""A fast tokenizer for transformers whose ids are those that the model was trained on.

That of a converted model is the one that it came with (see `hf_vocabulary.py`). The others have the ids of fairseq's
`--bpe sentencepiece` or `--bpe gpt2` and the dictionary, of a text whose white space is collapsed as by the recipes.
Special symbols in a text, such as `<mask>`, are read as symbols, and what follows `<mask>` starts a new word only after
a space.

Ids can differ where two segmentations are equally probable, such as 00+0 and 0+00: sentencepiece chooses by its
rounding (about one line of tables in 4,000). For models that data_prep did not train, also for rare characters under a
normalization rule other than `identity`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from data_prep import encoders
from data_prep.encoders import GPT2_MERGES, GPT2_VOCABULARY, SENTENCEPIECE
from data_prep.encoders import SPACE_PIECE as SPACE
from data_prep.fairseq_dict import MASK, SPECIALS, UNK
from data_prep.palette import PaletteEncoder
from linformer_fairseq.errors import UsageError

# What str.split() takes for white space: the recipes make one space of any run of it, and none at the ends of a text.
WHITE = "\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
TOUCHES = "\U0010ffff\U0010fffe"  # two code points that are no characters, which no text has beside each other
COLLAPSE = normalizers.Replace(Regex(f"[{WHITE}]+"), " ")
INPUTS = ["input_ids", "attention_mask"]  # there are no token types
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def build_tokenizer(folder: Path, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder that `data_prep.encoders.load` reads.

    `max_length` is the longest input of the model in tokens, `<s>` and `</s>` included. A UsageError refuses a missing
    file, the dictionary of another model, and a kind of model that has no fast tokenizer.
    """
    encoder = encoders.load(folder)  # refuses files that do not fit together
    if encoder.special is not None:
        kept = PreTrainedTokenizerFast.from_pretrained(
            folder / encoders.HUGGINGFACE, model_max_length=max_length, model_input_names=INPUTS
        )
        assert isinstance(kept, PreTrainedTokenizerFast)
        return kept
    symbols = encoder.names
    if isinstance(encoder, PaletteEncoder):
        # Colours in hexadecimal, in the order in which the model reads them; any that the palette lacks is <unk>.
        tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(symbols)}, "<unk>"))
        tokenizer.normalizer = normalizers.Sequence([COLLAPSE, normalizers.Replace(" ", "")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[0-9a-f]{6}"), "isolated")
    elif isinstance(encoder, encoders.SentencePieceEncoder):
        tokenizer = _sentencepiece(folder / SENTENCEPIECE, symbols)
    else:
        tokenizer = _gpt2(folder, symbols)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    ids = {name: symbols.index(name) for name in ("<s>", "</s>")}
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        # Found in the normalized text, where only white space at the ends of the whole text has been removed.
        mask_token=AddedToken(MASK, special=True, normalized=True, lstrip=True),
        model_max_length=max_length,
        model_input_names=INPUTS,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _sentencepiece(path: Path, symbols: Sequence[str]) -> Tokenizer:
    """A unigram or BPE model, its normalizer and its treatment of spaces."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]  # needs protobuf

    proto = ModelProto.FromString(encoders.load_model(path).serialized_model_proto())
    trainer, spec = proto.trainer_spec, proto.normalizer_spec
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == piece.NORMAL}
    own = [piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED]
    produced = {*scores, *own, *(BYTES if trainer.byte_fallback else ())}
    # What encoding never produces gets a name that no text has, since spaces have been replaced.
    names = [name if name in produced or name in (*SPECIALS, MASK) else f" {name}" for name in symbols]
    if trainer.model_type == trainer.BPE:
        # Every way to put a piece together from two others, best piece first.
        best_first = sorted(scores, key=lambda piece: -scores[piece])
        cuts = ((piece[:cut], piece[cut:]) for piece in best_first for cut in range(1, len(piece)))
        merges = [(left, right) for left, right in cuts if left in scores and right in scores]
        options = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": trainer.byte_fallback}
        model: Any = models.BPE({name: i for i, name in enumerate(names)}, merges, **options)
    elif trainer.model_type == trainer.UNIGRAM:
        # The library takes names of bytes for pieces like others; no text may prefer them to its own pieces.
        never = min(scores.values()) - 1000
        model = models.Unigram([(name, scores.get(name, never)) for name in names], UNK, trainer.byte_fallback)
    else:
        raise UsageError(f"{path} is neither a unigram nor a BPE model; there is no fast tokenizer for it")
    if not spec.escape_whitespaces or trainer.treat_whitespace_as_suffix:
        raise UsageError(f"{path} does not write the space before a word as {SPACE}; there is no fast tokenizer for it")
    tokenizer = Tokenizer(model)
    # What sentencepiece does to a text before it looks for pieces.
    found: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        found += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(f"[ {SPACE}]+\\z"), "")]
    if spec.add_dummy_prefix and not any(SPACE in piece[1:] for piece in produced):
        # Words lose the space before them and get its symbol, so that offsets are theirs alone; a word that touches a
        # symbol before it gets none.
        found.append(normalizers.Replace(Regex(f"(?:\\A|(?<= )){SPACE}"), SPACE * 2))
        found += [normalizers.Replace(Regex(f"{re.escape(name)}(?! |\\z)"), name + TOUCHES) for name in (MASK, *own)]
        words = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=False)
        spaces = [pre_tokenizers.WhitespaceSplit(), words, pre_tokenizers.Split(SPACE + TOUCHES, "removed")]
        ends = normalizers.Strip()
    else:
        if spec.add_dummy_prefix:  # which Metaspace leaves out where the text itself starts with its symbol
            found.append(normalizers.Replace(Regex(f"\\A{SPACE}"), SPACE * 2))
        scheme = "first" if spec.add_dummy_prefix else "never"
        spaces = [pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)]
        # One space before a text is its dummy prefix, which Metaspace adds only to what begins a text.
        ends = normalizers.Strip(left=not spec.add_dummy_prefix)
    tokenizer.normalizer = normalizers.Sequence([COLLAPSE, ends, *found])
    # Where a text spells a byte's name and the model lacks one of its characters, that one must stay alone.
    strangers = "".join(char for char in "<0x123456789ABCDEF>" if char not in scores)
    alone = [pre_tokenizers.Split(Regex(f"[{strangers}]"), "isolated")] if strangers and trainer.byte_fallback else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*spaces, *alone])
    strip = [decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_tokens([AddedToken(name, normalized=True) for name in own])
    return tokenizer


def _gpt2(folder: Path, symbols: Sequence[str]) -> Tokenizer:
    """GPT-2's byte-level BPE; the symbols of dict.txt are its ids, in any order."""
    own, merges = models.BPE.read_file(str(folder / GPT2_VOCABULARY), str(folder / GPT2_MERGES))
    tokens = {str(i): token for token, i in own.items()}
    tokenizer = Tokenizer(models.BPE({tokens.get(name, name): i for i, name in enumerate(symbols)}, merges))
    tokenizer.normalizer = normalizers.Sequence([COLLAPSE, normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
