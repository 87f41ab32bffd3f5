"""What a GPU makes of this project, in about ten minutes: a line a step, and all figures in one JSON file.

    python recipes/measure/gpu_check.py --out gpu_check.json          on one GPU
    python recipes/measure/gpu_check.py --out check.json --cpu        the same small, so that it does not rot

It needs what `pip install` of this project installs, and no data. A step that fails is reported, and the next one runs.
table3_efficiency.py measures layers. CUDA: run on one H100 (docs/benchmarks/gpu), but for the step `memory`.
"""

import argparse
import json
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from linformer_fairseq.criterions.fused_masked_lm import linear_cross_entropy
from linformer_fairseq.environment import environment_report
from linformer_fairseq.io.files import write_json
from linformer_fairseq.layers import EncoderConfig, LinformerEncoder
from linformer_fairseq.layers.config import PROJECTIONS, SHARINGS
from linformer_fairseq.measuring.gpu_runs import Runs, figures_of
from linformer_fairseq.measuring.study import seconds
from linformer_fairseq.optim.fused_adamw import FusedAdamW, FusedAdamWConfig
from linformer_fairseq.planning.memory import MASKED, training_bytes
from linformer_fairseq.planning.plan import plan_of
from linformer_fairseq.training import saving
from linformer_fairseq.training.flops import encoder_flops, head_flops
from linformer_fairseq.training.hardware import peak_flops
from linformer_fairseq.training.recipe import fairseq_train_argv, find_recipe

SIZES: dict[str, Any] = {"embed_dim": 64, "ffn_dim": 128, "num_heads": 4, "num_layers": 2, "vocab_size": 500}
SIZES |= {"max_positions": 128, "projected_length": 32}
STEPS = "versions types kernels host_waits speed saving compiling training resuming overflow memory".split()


class Check:
    """Steps in this process; each returns its figures."""

    def __init__(self, cpu: bool) -> None:
        self.cpu = cpu
        self.device = torch.device("cpu" if cpu else "cuda")
        self.low = torch.bfloat16 if cpu else torch.float16

    def versions(self) -> dict[str, Any]:
        """Versions, GPUs, and what to repair: a build of torch without code for the GPU, among others."""
        found = environment_report()
        del found["user_dir"]  # the figures are to be published, without folders of the machine
        found["python"] = found["python"].split(" (")[0]
        return {**found, "torch": torch.__version__, "built for": [] if self.cpu else torch.cuda.get_arch_list()}

    def types(self) -> dict[str, float]:
        """Largest error of loss and gradients in 16 bit against float32, relative to the largest value."""
        errors = {}
        kinds = [*((kind, 0) for kind in PROJECTIONS), ("adaptive", 16)]
        for sharing, (kind, window) in product(SHARINGS, kinds):
            options: dict[str, Any] = {"sharing": sharing, "projection": kind, "local_window": window, "dropout": 0.0}
            cfg = EncoderConfig(**SIZES, **options)
            full = self._gradients(cfg, torch.float32)
            for dtype in (torch.float16, torch.bfloat16):
                low = self._gradients(cfg, dtype)
                pairs = zip(low, full, strict=True)
                worst = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-3)) for a, b in pairs)
                errors[f"{sharing}, {kind}, window {window}, {str(dtype)[6:]}"] = worst
        return errors

    def _gradients(self, cfg: EncoderConfig, dtype: torch.dtype) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = LinformerEncoder(cfg).to(self.device, dtype).eval()
        loss = one_loss(model, 4)
        torch.autograd.backward(loss)
        return [loss.detach().float(), *(p.grad.float() for p in model.parameters() if p.grad is not None)]

    def kernels(self) -> dict[str, list[str]]:
        """Names of the kernels that attention runs, by type and dropout."""
        found = {}
        for dtype, p in product((torch.float32, torch.float16, torch.bfloat16), (0.0, 0.1)):
            model = LinformerEncoder(EncoderConfig(**SIZES, attention_dropout=p)).to(self.device, dtype)
            with torch.profiler.profile() as profile:
                one_step(model, 2)
            names = {event.key for event in profile.key_averages()}
            found[f"{str(dtype)[6:]}, dropout {p}"] = sorted(n for n in names if re.search("attention|fmha|flash", n))
        return found

    def host_waits(self) -> dict[str, int | str]:
        """How often the host waits for the device in a forward and backward pass."""
        if self.cpu:
            return {"skipped": "no device to wait for"}
        model = LinformerEncoder(EncoderConfig(**SIZES)).to(self.device, self.low)
        one_step(model, 4)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            one_step(model, 4)
            torch.cuda.set_sync_debug_mode("default")
        return {"waits": sum("called a synchronizing" in str(one.message) for one in caught)}

    def speed(self) -> dict[str, Any]:
        """Updates of the base models: tokens/s, share of the peak, memory, optimizer, each beside what is computed."""
        found = {}
        for name in ("base_n512_k128", "base_n4096_k256"):
            cfg, batch = self._base(name)
            n = cfg.max_positions
            model = LinformerEncoder(cfg).to(self.device, self.low)
            masters = [torch.nn.Parameter(p.detach().float()) for p in model.parameters()]
            optimizer = FusedAdamW(FusedAdamWConfig(lr=[1e-4]), masters)
            for master in masters:
                master.grad = torch.zeros_like(master)
            if not self.cpu:
                torch.cuda.reset_peak_memory_stats()
            update = self._seconds(optimizer.step)  # first, so that the moments are there in the step
            step = self._seconds(partial(one_step, model, batch))
            operations = encoder_flops(cfg, batch, n, MASKED * n) + head_flops(cfg, MASKED * n * batch)
            peak = peak_flops(self.device, "bf16" if self.cpu else "fp16")
            computed = training_bytes(cfg, batch)
            found[name] = {
                "tokens/s": batch * n / step,
                "ms": 1000 * step,
                "ms at the peak": None if peak is None else 1000 * operations / peak,
                "share of the peak": None if peak is None else operations / step / peak,
                "optimizer ms": 1000 * update,
                "GB": None if self.cpu else torch.cuda.max_memory_allocated() / 1e9,
                "GB computed": (sum(computed.values()) - computed["other"]) / 1e9,
            }
        return found

    def _base(self, name: str) -> tuple[EncoderConfig, int]:
        plan = plan_of(fairseq_train_argv(find_recipe(name), "DATA", Path("RUN")), "v100-16gb", gpus=1, symbols=50265)
        small: dict[str, Any] = {"embed_dim": 96, "ffn_dim": 96, "num_layers": 1, "vocab_size": 500}
        return (replace(plan.cfg, **small), 1) if self.cpu else (plan.cfg, plan.rows)

    def saving(self) -> dict[str, float]:
        """Seconds for which a base model waits until its state is copied, to be written in the background."""
        model = LinformerEncoder(self._base("base_n512_k128")[0]).to(self.device, self.low)
        return {"seconds": self._seconds(partial(saving.snapshot, {"model": model.state_dict()}))}

    def compiling(self) -> dict[str, Any]:
        """Graphs and speed of compiled layers at three lengths, with a local convolution."""
        model = LinformerEncoder(EncoderConfig(**SIZES, local_conv=5)).to(self.device, self.low)
        eager = self._seconds(partial(one_step, model, 4, 128))
        model.compile_layers(**({"backend": "aot_eager"} if self.cpu else {}))
        for length in (128, 100, 64):
            one_step(model, 4, length)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        return {"graphs": graphs, "speed": eager / self._seconds(partial(one_step, model, 4, 128))}

    def _seconds(self, work: Callable[[], object]) -> float:
        """Of one call, the median of five after two; on a CPU, of three."""

        def finished() -> None:
            work()
            if not self.cpu:
                torch.cuda.synchronize()

        return median([seconds(finished) for _ in range(3 if self.cpu else 7)][-5:])


def one_loss(model: LinformerEncoder, batch: int, length: int | None = None) -> torch.Tensor:
    """The masked-LM loss of full rows, whose first tokens are predicted."""
    n = length or model.cfg.max_positions
    weight = model.embed_tokens.weight
    tokens = torch.arange(batch * n, device=weight.device).view(batch, n) % (model.cfg.vocab_size - 5) + 5
    needed = torch.arange(round(MASKED * n), device=weight.device).expand(batch, -1)
    features, _ = model(tokens, needed=needed, padded=False)
    targets = tokens.gather(1, needed).flatten()
    return linear_cross_entropy(features.flatten(0, 1), weight, weight.new_zeros(len(weight)), targets)


def one_step(model: LinformerEncoder, batch: int, length: int | None = None) -> None:
    """Forward and backward pass."""
    torch.autograd.backward(one_loss(model, batch, length))


def main() -> int:
    """Run the steps; 1 if one has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file with all figures")
    parser.add_argument("--cpu", action="store_true", help="run small on the CPU")
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        cpu = options.cpu or not torch.cuda.is_available()
        check, runs = Check(cpu), Runs(cpu, Path(folder))
        steps = {n: getattr(one, n) for one in (check, runs) for n in vars(type(one)) if n in STEPS}
        for name in options.only or STEPS:
            start = time.perf_counter()
            results[name] = figures_of(steps[name])
            print(f"{name}: {time.perf_counter() - start:.1f} s, {str(results[name])[:200]}", flush=True)
            write_json(options.out, {"device": str(check.device), **results})
    return int('"failed"' in json.dumps(results))


if __name__ == "__main__":
    raise SystemExit(main())
