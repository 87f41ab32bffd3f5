"""Errors of attention sublayers, and the singular values of attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from linformer_fairseq import cli
from linformer_fairseq.checkpoints.checkpoint import Checkpoint, build, encoder_config, read, write
from linformer_fairseq.checkpoints.spectral import attention_weights
from linformer_fairseq.checkpoints.warm_start import to_linformer
from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.approximation import Variant, errors_of, read_model, read_passages, spectrum_of

N = 64
WORDS = "the a river garden child teacher book city winter letter good bad warm cold likes sees reads".split()
Model = tuple[Checkpoint, Checkpoint, torch.Tensor]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(" ".join(np.random.default_rng(0).choice(WORDS, 1500)))
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path, text: Path) -> Model:
    """The Linformer, the same with exact attention, and passages; attention is far from uniform."""
    given, exact, tokenizer = read_model(checkpoint, None, None)
    for state in (given.state, exact.state):
        for name in state:
            if "q_proj.weight" in name or "k_proj.weight" in name:
                state[name] = state[name] * 8
    return given, exact, read_passages([text], tokenizer, N, 3)


def first_input(exact: Checkpoint, passages: torch.Tensor) -> tuple[torch.nn.Module, torch.Tensor]:
    """The first attention sublayer and its input, in a model with layer norms before the sublayers."""
    encoder = build(exact).encoder.sentence_encoder
    layer, x = encoder.layers[0], encoder(passages, return_all_hiddens=True)[1][0]
    assert layer.normalize_before
    return layer.self_attn, layer.self_attn_layer_norm(x)


@torch.no_grad()
def test_an_error_is_that_of_the_sublayer_with_the_input_of_the_exact_model(model: Model) -> None:
    _, exact, passages = model
    linformer = to_linformer(exact, "16", None, "key-value")
    variants = [Variant("mean-pool", 16, 0), Variant("adaptive", 16, 0), Variant("adaptive", 16, 8), Variant("", 0, 8)]
    found = errors_of(exact, passages, variants, linformer)
    assert found.shape == (5, encoder_config(exact).num_layers) and (found > 0.01).all()
    torch.testing.assert_close(found[0], found[-1], rtol=1e-3, atol=0)  # block means without and with a matrix
    attention, x = first_input(exact, passages)
    own = build(linformer).encoder.sentence_encoder.layers[0].self_attn
    expected, output = attention(x), own(x)
    assert found[-1, 0].item() == pytest.approx(((output - expected).norm() / expected.norm()).item(), rel=1e-4)


def test_all_tokens_are_no_approximation(model: Model) -> None:
    _, exact, passages = model
    wide = [Variant("adaptive", N, 0), Variant("mean-pool", N, 0), Variant("adaptive", 16, N), Variant("", 0, N)]
    assert errors_of(exact, passages, wide).max() < 1e-5


@torch.no_grad()
def test_spectrum_is_that_of_the_attention_weights(model: Model) -> None:
    _, exact, passages = model
    ranks = [1, 4, 16, N]
    shares, errors = spectrum_of(exact, passages, ranks)
    layers, heads = encoder_config(exact).num_layers, encoder_config(exact).num_heads
    assert shares.shape == (layers, heads, 4) and errors.shape == (2, 4, layers)
    assert (shares.diff(dim=-1) > 0).all() and (errors.diff(dim=1) < 0).all()
    torch.testing.assert_close(shares[..., -1], torch.ones(layers, heads, dtype=torch.float64))
    assert errors[:, -1].max() < 1e-5

    attention, x = first_input(exact, passages)
    weights = attention_weights(attention, x, None)
    u, s, v = torch.linalg.svd(weights)
    expected = (s[..., :4].sum(-1) / s.sum(-1)).mean(0)
    torch.testing.assert_close(shares[0, :, 1].float(), expected, rtol=1e-4, atol=0)
    values = attention.v_proj(x) - attention.v_proj.bias
    heads_of = values.unflatten(-1, (heads, -1)).transpose(1, 2)
    low = u[..., :4] * s[..., None, :4] @ v[..., :4, :]
    context, part = ((p @ heads_of).transpose(1, 2).flatten(2) + attention.v_proj.bias for p in (weights, low))
    lost = attention.out_proj(context) - attention.out_proj(part)
    assert errors[0, 1, 0].item() == pytest.approx(((context - part).norm() / context.norm()).item(), rel=1e-3)
    assert errors[1, 1, 0].item() == pytest.approx((lost.norm() / attention(x).norm()).item(), rel=1e-3)


def test_passages_are_pieces_of_the_text(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    _, exact, tokenizer = read_model(checkpoint, None, 20)
    assert encoder_config(exact).max_positions == 20
    ids = tokenizer.encode([text.read_text()])[0]
    found = read_passages([text.parent], tokenizer, 20, 4)
    assert found.shape == (4, 20) and found[:, 0].eq(0).all() and found[:, -1].eq(2).all()
    pieces = ids[: len(ids) // 18 * 18].reshape(-1, 18)
    places = [int(np.flatnonzero((pieces == passage.numpy()).all(1))[0]) for passage in found[:, 1:-1]]
    assert len(set(places)) == 4 and places == sorted(places)
    (tmp_path / "few.txt").write_text(" ".join(WORDS * 2))
    few = len(tokenizer.encode([" ".join(WORDS * 2)])[0]) // 18
    assert len(read_passages([tmp_path / "few.txt"], tokenizer, 20, 100)) == few


def test_what_cannot_be_measured_is_refused_in_a_sentence(checkpoint: Path, tmp_path: Path) -> None:
    _, _, tokenizer = read_model(checkpoint, None, None)
    (tmp_path / "short.txt").write_text("the river")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, message in (("short.txt", "no text here has 64"), ("binary", "in UTF-8"), ("none", "in UTF-8")):
        with pytest.raises(UsageError, match=message):
            read_passages([tmp_path / name], tokenizer, N, 4)
    given = read(checkpoint)
    write(given.converted(model={**given.model, "attention": "none"}), tmp_path / "none.pt")
    with pytest.raises(UsageError, match="no attention to look at"):
        read_model(tmp_path / "none.pt", None, None)


def test_folders_of_hugging_face_bring_their_tokenizer(tmp_path: Path) -> None:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(names), max_position_embeddings=32, pad_token_id=0, **sizes)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert/vocab.txt").write_text("\n".join(names))
    _, exact, tokenizer = read_model(tmp_path / "bert", None, 48)
    assert encoder_config(exact).attention == "exact" and encoder_config(exact).max_positions == 48
    assert tokenizer.decode(tokenizer.encode(["the river likes winter"])[0]) == "the river likes winter"
    for words in (["from-bert", "bert", "a.pt", "--projected-length", "8"], ["to-hf", "a.pt", "hf"]):
        files = [str(tmp_path / word) for word in words[1:3]]
        assert cli.main(["convert", words[0], *files, *words[3:]]) == 0
    given, again, tokenizer = read_model(tmp_path / "hf", None, 48)
    assert encoder_config(given).attention == "linformer"
    assert again.state.keys() == exact.state.keys()
    assert all(torch.equal(again.state[name], value) for name, value in exact.state.items())
