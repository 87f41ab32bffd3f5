"""torch.compile, torch.export and ONNX give what the models give, for all lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

from linformer_fairseq.hf.configuration_linformer import LinformerConfig
from linformer_fairseq.hf.modeling_linformer import LinformerForMaskedLM, LinformerForSequenceClassification

MakeConfig = Callable[..., LinformerConfig]
SHAPES = ((2, 20, 8), (3, 32, 0), (1, 9, 0), (4, 11, 10), (2, 24, 1))
KINDS = ("linear", "mean-pool", "max-pool", "conv", "adaptive")
DYNAMIC = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=32)}


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and masks (B, N), the last row with pads."""
    generator = torch.Generator().manual_seed(0)
    for rows, length, pads in SHAPES:
        ids = torch.randint(4, 60, (rows, length), generator=generator)
        if pads:
            ids[-1, -pads:] = 1
        yield ids, ids.ne(1).long()


def model_of(config: LinformerConfig) -> LinformerForMaskedLM:
    torch.manual_seed(0)
    return LinformerForMaskedLM(config).eval()


@pytest.mark.parametrize("kind", ("linear", "mean-pool"))
@torch.no_grad()
def test_compiled(make_config: MakeConfig, kind: str) -> None:
    torch.compiler.reset()
    model = model_of(make_config(projection=kind, num_hidden_layers=1))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for ids, mask in list(batches())[:2]:
        real = mask.bool()
        torch.testing.assert_close(compiled(ids, mask).logits[real], model(ids, mask).logits[real])


@pytest.mark.parametrize("settings", [*({"projection": kind} for kind in KINDS), {"attention": "exact"}])
@torch.no_grad()
def test_exported(make_config: MakeConfig, settings: dict[str, str]) -> None:
    model = model_of(make_config(**settings))
    ids, mask = next(batches())
    shapes = {"input_ids": DYNAMIC, "attention_mask": DYNAMIC}
    graph = torch.export.export(model, (ids, mask), dynamic_shapes=shapes).module()
    for ids, mask in batches():
        real = mask.bool()
        torch.testing.assert_close(graph(ids, mask).logits[real], model(ids, mask).logits[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [*({"projection": kind} for kind in KINDS), {"projection_sharing": "none"}])
@torch.no_grad()
def test_onnx(make_config: MakeConfig, tmp_path: Path, settings: dict[str, str]) -> None:
    model = model_of(make_config(num_hidden_layers=1, local_conv=3, **settings))
    check_onnx(model, tmp_path / "model.onnx")


@torch.no_grad()
def test_onnx_of_a_classifier(make_config: MakeConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LinformerForSequenceClassification(make_config(num_hidden_layers=1, num_labels=3)).eval()
    check_onnx(model, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "settings",
    [*({"projection": kind} for kind in KINDS), {"projection": "adaptive", "local_window": 2}, {"attention": "exact"}],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_onnx_by_the_older_exporter(make_config: MakeConfig, tmp_path: Path, settings: dict[str, str]) -> None:
    model = model_of(make_config(num_hidden_layers=1, projection_sharing="none", **settings))
    check_onnx(model, tmp_path / "model.onnx", dynamo=False)


@pytest.mark.parametrize("window", [0, 8])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_a_long_text_has_the_same_features_alone_and_beside_others(
    make_config: MakeConfig, tmp_path: Path, window: int
) -> None:
    sizes = {"max_position_embeddings": 8192, "projected_length": 64, "num_hidden_layers": 1}
    model = model_of(make_config(**sizes, projection="adaptive", local_window=window))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    session = session_of(model, tmp_path / "model.onnx", dynamo=False)

    def in_onnx(ids: Tensor) -> Tensor:
        (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": ids.ne(1).long().numpy()})
        return torch.from_numpy(found)

    texts = [torch.randint(4, 60, (n,), generator=torch.Generator().manual_seed(n)) for n in (40, 8192, 5000, 700)]
    together = torch.nn.utils.rnn.pad_sequence(texts, True, 1)
    alone = [model(text[None]).logits[0] for text in texts]
    for found in (model(together).logits, in_onnx(together), [in_onnx(text[None])[0] for text in texts]):
        for row, text, expected in zip(found, texts, alone, strict=True):
            torch.testing.assert_close(row[: len(text)], expected, atol=1e-5, rtol=1e-4)


def check_onnx(model: torch.nn.Module, path: Path, dynamo: bool = True) -> None:
    session = session_of(model, path, dynamo)
    for ids, mask in batches():
        (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        expected = model(ids, mask).logits
        real = mask.bool() if expected.dim() == 3 else slice(None)
        torch.testing.assert_close(torch.from_numpy(found)[real], expected[real], atol=1e-4, rtol=1e-4)


def session_of(model: torch.nn.Module, path: Path, dynamo: bool) -> Any:
    """The exported model."""
    ids, mask = next(batches())
    names = ["input_ids", "attention_mask"]
    if dynamo:
        how: dict[str, Any] = {"dynamic_shapes": dict.fromkeys(names, DYNAMIC)}
    else:
        axes = {0: "batch", 1: "length"}
        how = {
            "dynamic_axes": dict.fromkeys([*names, "logits"], axes),
            "input_names": names,
            "output_names": ["logits"],
        }
    torch.onnx.export(model, (ids, mask), path, dynamo=dynamo, verbose=False, **how)
    return onnxruntime.InferenceSession(path)
