"""Folders of Hugging Face with random models of few parameters and tokenizers trained on a few lines."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoTokenizer

from linformer_fairseq.commands import convert

TEXTS = ["The projected length, k = 128, isn't   n; naïve façade.", "A second line", "lengths", "n of k " * 9]
CORPUS = [*TEXTS, "lengths and tokens of the second line", "a line of projected tokens"] * 20
N = 80
CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
TRUST = {"trust_remote_code": True}
INPUTS = ("input_ids", "attention_mask")


def write_tokenizer(kind: str, folder: Path) -> None:
    """As the published models have it: WordPiece, byte-level BPE, a sentencepiece model alone, or Unigram."""
    if kind == "bert":
        trained = tokenizers.BertWordPieceTokenizer()
        names = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trained.train_from_iterator(CORPUS, 120, 1, special_tokens=names, show_progress=False)
        trained.save_model(str(folder))
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    elif kind == "roberta":
        trained = tokenizers.ByteLevelBPETokenizer()
        trained.train_from_iterator(CORPUS, 300, 1, special_tokens=list(SPECIAL[:4]), show_progress=False)
        trained.add_special_tokens(["<mask>"])
        trained.save(str(folder / "tokenizer.json"))
    elif kind == "xlm-roberta":
        model = io.BytesIO()
        options = {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=model, **options)
        (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    else:
        names = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
        pieces = sorted({char for text in TEXTS for char in text if char != " "} | {"▁", "▁line", "ength", "▁of"})
        scores = [(name, 0.0) for name in names] + [(piece, -len(names) / len(piece)) for piece in pieces]
        trained = tokenizers.Tokenizer(tokenizers.models.Unigram([*scores, ("<mask>", 0.0)], 3))
        trained.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        trained.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 6), ("<s>", 5))
        trained.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        trained.save(str(folder / "tokenizer.json"))


def shake(model: nn.Module) -> None:
    """Makes every parameter count, token types and layer norms included."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.3 if parameter.dim() == 1 else 0.0, std=0.15)
    model.eval()


def make_source(kind: str, folder: Path, head: str = "ForMaskedLM", **changes: Any) -> Any:
    """A folder of a random model, with a tokenizer trained here; returns the model."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 40, "max_position_embeddings": N + 2, "layer_norm_eps": 1e-5, "vocab_size": 400}
    if kind == "bert":
        sizes |= {"max_position_embeddings": N, "layer_norm_eps": 1e-2, "pad_token_id": 0}
    config = getattr(transformers, f"{CLASSES[kind]}Config")(**sizes | changes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{CLASSES[kind]}{head}")(config)
    shake(model)
    model.save_pretrained(folder)
    write_tokenizer(kind, folder)
    return model


def add_sentence_transformers(folder: Path, encoder: str = "") -> None:
    kinds = {"0": ("Transformer", encoder), "1": ("Pooling", "1_Pooling"), "2": ("Normalize", "2_Normalize")}
    modules = [
        {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for name, (kind, path) in kinds.items()
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 24, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (folder / encoder / "sentence_bert_config.json").write_text('{"max_seq_length": 30, "do_lower_case": false}')


def run(*words: Any) -> None:
    assert convert.main([str(word) for word in words]) == 0


def there(folder: Path, *words: str) -> Path:
    """The exported folder, after the way through a fairseq checkpoint."""
    checkpoint = folder.with_suffix(".pt")
    run("from-bert", folder, checkpoint, *(words or ("--attention", "exact")))
    out = folder.with_name(f"{folder.name}-out")
    run("to-hf", checkpoint, out)
    return out


def ids_of(folder: Path, texts: list[str] = TEXTS) -> dict[str, Tensor]:
    found = AutoTokenizer.from_pretrained(folder, **TRUST)(texts, padding=True, return_tensors="pt")
    return {name: found[name] for name in INPUTS}
