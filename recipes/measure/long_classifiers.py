"""Classification of one text on a CPU: latency and memory by length, kind of attention and runtime.

    OMP_NUM_THREADS=1 python recipes/measure/long_classifiers.py --out RUN

Random weights, on which speed does not depend. All take turns, each in a process of its own. The time is that of one
classification, of up to 8,192 tokens the second one; the memory is the peak beside what the process holds after a first
short text. ONNX Runtime holds the n x n scores of exact attention, and is left out where a layer's take over 2 GB.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import transformers
from onnxruntime.quantization import quantize_dynamic
from torch import Tensor, nn

from linformer_fairseq.hf.configuration_linformer import LinformerConfig
from linformer_fairseq.hf.modeling_linformer import LinformerForSequenceClassification
from linformer_fairseq.inference.quantize import quantize
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.measuring.study import Cells, Measurement, comparison, forget_peak, in_a_process, status

EXACT, ROBERTA, LONGFORMER = "exact attention", "RoBERTa (SDPA)", "Longformer, window 512"
ONNX = "ONNX Runtime"
RUNTIMES = [f"{runtime}, {precision}" for runtime in ("PyTorch", ONNX) for precision in ("float32", "int8")]
VOCABULARY = 1000  # the embedding takes no time
SCORES = 2e9  # bytes of n x n scores


def flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--lengths", type=int, nargs="+", default=[512, 2048, 8192, 32768], help="in tokens (default: 512 to 32768)")
    add("--layers", type=int, default=6, help="default: %(default)s")
    add("--channels", type=int, default=384, help="in heads of 64 (default: %(default)s)")
    add("--k", type=int, default=256, help="projected length (default: %(default)s)")
    add("--local-window", type=int, nargs="+", default=[0, 64], metavar="W", help="default: 0 64")
    add("--rounds", type=int, default=3, help="default: %(default)s")
    add("--threads", type=int, default=1, help="default: %(default)s")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    work = {}
    for runtime, name in product(RUNTIMES, models(options)):
        if name != LONGFORMER or ONNX not in runtime:  # whose export is left out
            work[f"{name}, {runtime}"] = in_a_process(classify, options, name, runtime)
    cells.turns(work, options.rounds)


def models(options: argparse.Namespace) -> dict[str, Callable[[], nn.Module]]:
    """What makes each contestant."""
    longest, heads = max(options.lengths), options.channels // 64
    sizes = {"vocab_size": VOCABULARY, "hidden_size": options.channels, "num_hidden_layers": options.layers}
    sizes |= {"num_attention_heads": heads, "intermediate_size": 4 * options.channels}

    def ours(**more: Any) -> Callable[[], nn.Module]:
        config = LinformerConfig(max_position_embeddings=longest, projected_length=options.k, **sizes, **more)
        return lambda: LinformerForSequenceClassification(config)

    def other(kind: str, **more: Any) -> Callable[[], nn.Module]:
        config = getattr(transformers, f"{kind}Config")(max_position_embeddings=longest + 2, **sizes, **more)
        return lambda: getattr(transformers, f"{kind}ForSequenceClassification")(config)

    adaptive: dict[str, Any] = {"projection": "adaptive", "projection_sharing": "key-value"}
    found = {f"adaptive, k = {options.k}, W = {w}": ours(local_window=w, **adaptive) for w in options.local_window}
    found |= {EXACT: ours(attention="exact"), ROBERTA: other("Roberta")}
    return found | {LONGFORMER: other("Longformer", attention_window=[512] * options.layers, pad_token_id=1)}


def classify(options: argparse.Namespace, name: str, runtime: str) -> dict[str, float]:
    """Milliseconds and MB of one classification of each length."""
    torch.set_num_threads(options.threads)
    run, found, chance = runner(options, name, runtime), dict[str, float](), torch.Generator().manual_seed(1)
    run(torch.full((1, 64), 5))
    before = status("VmRSS")
    for n in sorted(options.lengths):
        if name in (EXACT, ROBERTA) and ONNX in runtime and 4 * options.channels // 64 * n**2 > SCORES:
            break
        ids = torch.randint(4, VOCABULARY, (1, n), generator=chance)
        forget_peak()
        for _ in range(2 if n <= 8192 else 1):
            start = time.perf_counter()
            run(ids)
            found[f"ms, {n:,} tokens"] = 1000 * (time.perf_counter() - start)
        found[f"MB, {n:,}"] = (status("VmHWM") - before) / 1e6
    return found


def runner(options: argparse.Namespace, name: str, runtime: str) -> Callable[[Tensor], object]:
    """What classifies ids (1, N)."""
    if ONNX not in runtime:
        made = models(options)[name]().eval()
        model = quantize(made) if "int8" in runtime else made
        return torch.inference_mode()(lambda ids: model(ids, attention_mask=torch.ones_like(ids)))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = options.threads, 3
    session = onnxruntime.InferenceSession(graph(options, name, "int8" in runtime), settings)
    return lambda ids: session.run(None, {"ids": ids.numpy(), "mask": torch.ones_like(ids).numpy()})


def graph(options: argparse.Namespace, name: str, int8: bool) -> Path:
    """The model's ONNX file, made when it is first asked for."""
    file: Path = options.out / f"{name}{', int8' if int8 else ''}.onnx"
    if file.exists():
        return file
    with replace_when_done(file) as unfinished:
        if int8:  # of the layers that are 8-bit in PyTorch
            quantize_dynamic(graph(options, name, False), unfinished, op_types_to_quantize=["MatMul", "Gemm"])
        else:
            ids, axes = torch.full((2, min(options.lengths)), 5), {0: "batch", 1: "length"}
            names: dict[str, Any] = {"input_names": ["ids", "mask"], "dynamic_axes": {"ids": axes, "mask": axes}}
            made = models(options)[name]().eval()
            torch.onnx.export(made, (ids, torch.ones_like(ids)), unfinished, dynamo=False, **names)
    return file


TABLE = comparison("Classifiers of long texts on a CPU", "Random weights; milliseconds and memory of one text.")
QUICK = {"lengths": [64, 128], "layers": 1, "channels": 64, "k": 16, "local_window": [0, 4], "rounds": 1}
MEASUREMENT = Measurement(__file__, __doc__, flags, measure, TABLE, quick=QUICK)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
