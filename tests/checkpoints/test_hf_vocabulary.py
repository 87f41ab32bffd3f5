"""A Hugging Face tokenizer as fairseq's files: the same text has the same ids as in the converted model."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.data.encoders.gpt2_bpe import GPT2BPE
from torch import Tensor

from data_prep.fairseq_dict import MASK, SPECIALS
from linformer_fairseq.checkpoints.checkpoint import build
from linformer_fairseq.checkpoints.hf_encoders import from_hf_encoder
from linformer_fairseq.checkpoints.hf_kept import keep
from linformer_fairseq.checkpoints.names import EMBEDDING
from linformer_fairseq.errors import UsageError

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXT = "The projected length, k = 128, isn't   n; naïve façade 😀 of 12,345 tokens.\nA second line"
ORDERS = {"published": (*SPECIALS, MASK), "mask in front": (MASK, *SPECIALS)}


def make_folder(folder: Path, order: str, form: str, spare: int = 3) -> Any:
    """A RoBERTa of random parameters with a tokenizer trained here; returns the tokenizer and the model."""
    trained = tokenizers.ByteLevelBPETokenizer()
    # Trained with the special tokens first, as with the library's own example; "published" has <mask> behind all.
    first = [token for token in ORDERS[order] if order != "published" or token != MASK]
    trained.train_from_iterator([TEXT, "lengths and tokens of the second line"] * 20, 330, 1, special_tokens=first)
    trained.add_special_tokens([MASK])
    folder.mkdir(exist_ok=True)
    vocabulary = trained.get_vocab()
    if form == "fast":
        trained.save(str(folder / "tokenizer.json"))
    else:
        trained.save_model(str(folder))
        (folder / "added_tokens.json").write_text(json.dumps({MASK: vocabulary[MASK]}))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"vocab_size": len(vocabulary) + spare, "pad_token_id": vocabulary["<pad>"], "layer_norm_eps": 1e-5}
    sizes["max_position_embeddings"] = 200 + vocabulary["<pad>"] + 1
    model = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**sizes)).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(folder)
    return trained, model


def fairseq_ids(folder: Path, text: str) -> tuple[Tensor, Dictionary]:
    """As fairseq's hub interface encodes: <s>, the ids, </s>."""
    paths = {"gpt2_encoder_json": str(folder / "encoder.json"), "gpt2_vocab_bpe": str(folder / "vocab.bpe")}
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    dictionary.add_symbol(MASK)
    line = f"<s> {GPT2BPE(Namespace(**paths)).encode(text)} </s>"
    return dictionary.encode_line(line, append_eos=False, add_if_not_exist=False).long(), dictionary


@torch.no_grad()
@pytest.mark.parametrize("form", ["fast", "slow"])
@pytest.mark.parametrize("order", ORDERS)
def test_text_has_equal_logits_by_both_tokenizers(order: str, form: str, tmp_path: Path) -> None:
    trained, model = make_folder(tmp_path / "hf", order, form)
    keep(tmp_path / "hf", tmp_path / "out")
    ours, dictionary = fairseq_ids(tmp_path / "out", TEXT)
    ids = trained.get_vocab()
    theirs = torch.tensor([ids["<s>"], *trained.encode(TEXT).ids, ids["</s>"]])
    converted = from_hf_encoder(tmp_path / "hf")
    assert len(ours) == len(theirs) and len(dictionary) == converted.state[EMBEDDING].size(0)
    assert torch.equal(ours, theirs) is (order == "published")
    assert torch.equal(converted.state[EMBEDDING][ours], model.roberta.embeddings.word_embeddings.weight[theirs])
    torch.testing.assert_close(
        converted.state[EMBEDDING][dictionary.index(MASK)], model.roberta.embeddings.word_embeddings.weight[ids[MASK]]
    )
    found, expected = build(converted)(ours[None])[0][0], model(theirs[None]).logits[0]
    # Of every token's score, that of the token itself: the columns are ours.
    torch.testing.assert_close(found.gather(1, ours[:, None]), expected.gather(1, theirs[:, None]), rtol=0, atol=1e-5)


def test_the_published_order_stays_as_it_is(tmp_path: Path) -> None:
    trained, _ = make_folder(tmp_path, "published", "fast", spare=0)
    keep(tmp_path, tmp_path / "out")
    ours, _ = fairseq_ids(tmp_path / "out", TEXT)
    assert ours.tolist() == [0, *trained.encode(TEXT).ids, 2]


def test_files_that_exist_are_kept(tmp_path: Path) -> None:
    make_folder(tmp_path, "published", "fast")
    (tmp_path / "dict.txt").write_text("mine")
    with pytest.raises(UsageError, match="dict.txt exists"):
        keep(tmp_path, tmp_path)
    assert not (tmp_path / "encoder.json").exists() and (tmp_path / "dict.txt").read_text() == "mine"
    keep(tmp_path, tmp_path, force=True)
    assert (tmp_path / "dict.txt").read_text() != "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(model=3), "its tokenizer cannot be read"),
        (lambda content: content["model"]["vocab"].update(x=999), "do not belong together"),
    ],
)
def test_other_tokenizers_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    make_folder(tmp_path, "published", "fast")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        keep(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, "published", "fast")
    text = (tmp_path / "tokenizer.json").read_text().replace(MASK, "[MASK]")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UsageError, match="has no <mask>"):
        from_hf_encoder(tmp_path)
