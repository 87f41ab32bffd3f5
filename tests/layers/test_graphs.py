"""The encoder as a graph: torch.compile and torch.export for all lengths, with pads and without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.layers.attention import LocalConv

KINDS = ("linear", "mean-pool", "max-pool", "conv", "adaptive")


def encoder(**kwargs: object) -> LinformerEncoder:
    sizes = {"vocab_size": 60, "max_positions": 64, "embed_dim": 16, "ffn_dim": 32, "num_heads": 4, "num_layers": 1}
    cfg = EncoderConfig(**{**sizes, "projected_length": 16, **kwargs})  # type: ignore[arg-type]
    torch.manual_seed(0)
    return LinformerEncoder(cfg).eval()


def batch(rows: int, length: int, pads: int) -> Tensor:
    tokens = torch.randint(2, 60, (rows, length), generator=torch.Generator().manual_seed(length))
    if pads:
        tokens[0, -pads:] = 1
    return tokens


@pytest.mark.parametrize("sharing, kind", [("layerwise", kind) for kind in KINDS] + [("none", "linear")])
def test_one_exported_graph_serves_all_lengths(sharing: str, kind: str) -> None:
    model = encoder(projection=kind, sharing=sharing, local_conv=3)
    dims = {"tokens": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=64)}}
    graph = torch.export.export(model, (batch(2, 21, 5),), dynamic_shapes=dims).module()
    for rows, length, pads in ((2, 21, 5), (3, 64, 0), (5, 7, 3), (4, 16, 0), (1, 64, 9)):
        tokens = batch(rows, length, pads)
        real = tokens.ne(1)
        torch.testing.assert_close(graph(tokens)[0][real], model(tokens)[0][real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention, kind", [("linformer", "linear"), ("linformer", "adaptive"), ("exact", "linear")])
@torch.no_grad()
def test_compiled_without_a_break(attention: str, kind: str) -> None:
    torch.compiler.reset()
    model = encoder(attention=attention, projection=kind)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for length, pads in ((21, 5), (64, 0), (32, 0)):
        tokens = batch(2, length, pads)
        real = tokens.ne(1)
        torch.testing.assert_close(compiled(tokens)[0][real], model(tokens)[0][real], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sharing, kind", [("layerwise", "linear"), ("none", "linear"), ("layerwise", "adaptive")])
def test_more_lengths_compile_nothing_more(sharing: str, kind: str) -> None:
    torch.compiler.reset()
    model = encoder(num_layers=3, sharing=sharing, projection=kind, local_conv=3)
    counter = CompileCounterWithBackend("aot_eager")
    names = list(model.state_dict())
    tokens = [
        batch(rows, length, pads) for rows, length, pads in ((2, 21, 5), (3, 64, 0), (5, 9, 3), (4, 33, 0), (2, 12, 0))
    ]
    expected = [model(each)[0][each.ne(1)] for each in tokens]
    model.compile_layers(backend=counter)
    for each, features in zip(tokens, expected, strict=True):
        torch.testing.assert_close(model(each)[0][each.ne(1)], features, atol=1e-5, rtol=1e-5)
    graphs = counter.frame_count
    for length in range(10, 60, 7):
        model(batch(2, length, length % 2))
    assert counter.frame_count == graphs <= 6  # with pads and without, shorter and full
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("kind", KINDS)
def test_real_tokens_may_be_given(kind: str) -> None:
    model = encoder(projection=kind)
    tokens = batch(2, 21, 5)
    given = tokens.masked_fill(tokens.eq(1), 7)  # what pads hold does not matter
    real = tokens.ne(1)
    torch.testing.assert_close(model(given, real=real)[0][real], model(tokens)[0][real])
    assert not torch.allclose(model(given)[0][real], model(tokens)[0][real])


def test_a_local_convolution_compiles_once_for_all_lengths() -> None:
    """With inductor, which would compile a convolution anew for each."""
    torch.compiler.reset()
    conv = LocalConv(EncoderConfig(embed_dim=8, num_heads=2, local_conv=5))
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(conv, dynamic=True)
    for length in (21, 64, 33, 40):
        values = torch.randn(2, length, 8, requires_grad=True)
        out = compiled(values)
        out.sum().backward()
        torch.testing.assert_close(out, conv(values))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
