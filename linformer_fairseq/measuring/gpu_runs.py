"""Short runs of the real fairseq-train that show what a GPU makes of each precision; `recipes/measure/gpu_check.py`."""

import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

from linformer_fairseq.checkpoints.checkpoint import read
from linformer_fairseq.measuring.trainings import with_symbols
from linformer_fairseq.paths import USER_DIR
from linformer_fairseq.planning.memory import training_bytes
from linformer_fairseq.planning.plan import plan_of
from linformer_fairseq.training.metrics import read_metrics
from linformer_fairseq.training.progress import run_logged

PRECISIONS = {"fp32": "", "fp16": "--fp16", "amp": "--amp", "bf16": "--bf16"}
PRECISIONS["memory-efficient fp16"] = "--memory-efficient-fp16"
PAIRS = {
    "plain": "--optimizer adam --criterion masked_lm",
    "fused": "--optimizer fused_adamw --criterion fused_masked_lm",
}
ROWS = {512: 32, 4096: 4, 16384: 1}  # of a batch, by length
WORDS = 400
SAME = """--task masked_lm --lr-scheduler fixed --seed 1 --log-format json --log-interval 1 --no-epoch-checkpoints
    --disable-validation --num-workers 0"""
LOG = "train.log"


@dataclass
class Runs:
    """The steps, in order; each returns its figures. Runs of a step are beside each other on a GPU."""

    cpu: bool
    folder: Path

    @cached_property
    def data(self) -> Path:
        """Folder of binarised text."""
        rng = random.Random(0)
        words = [f"w{number}" for number in range(WORDS)]
        for split, count in (("train", 2000), ("valid", 20)):
            starts = rng.choices(range(WORDS), k=count)
            lines = (" ".join(words[(start + i) % WORDS] for i in range(60)) for start in starts)
            (self.folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
        flags = [f"--trainpref={self.folder}/train.txt", f"--validpref={self.folder}/valid.txt", "--only-source"]
        run_logged(["fairseq-preprocess", *flags, f"--destdir={self.folder}/data"], self.folder / "preprocess.log")
        return self.folder / "data"

    def training(self) -> dict[str, Any]:
        """Last loss of a tiny model after 200 updates in each precision, with each optimizer and criterion."""
        kinds = product(self.modes, PAIRS)
        return self._each({f"{mode}, {pair}": partial(self._loss, mode, pair) for mode, pair in kinds})

    def resuming(self) -> dict[str, Any]:
        """Largest difference of a parameter after a stop and a new start from the run that was not disturbed.

        Beside it, the difference of a second undisturbed run: a GPU adds up in no fixed order.
        """
        return self._each({mode: partial(self._resumed, mode) for mode in self.modes})

    def overflow(self) -> dict[str, int]:
        """How many updates are skipped when the first scale of the loss is far too large."""
        if self.cpu:
            return {}
        run = self._tiny("fp16", "fused", "overflow", self.updates, "--fp16-init-scale 1073741824")
        return {"overflows": (run / LOG).read_text().count("overflow detected")}

    def memory(self) -> dict[str, Any]:
        """Peak of three updates of a base model (GB), beside what `linformer plan` computes."""
        if self.cpu:
            return {}
        with_symbols(self.data, 50265, self.folder / "large")
        kinds = product([mode for mode in PRECISIONS if mode != "amp"], ROWS, (False, True))
        return self._each({f"{m}, n = {n}{', recomputed' * r}": partial(self._peak, m, n, r) for m, n, r in kinds})

    def __post_init__(self) -> None:
        self.updates, self.rows = (10, 2) if self.cpu else (200, 16)  # of a run of the tiny model
        self.modes = ["fp32", "bf16"] if self.cpu else list(PRECISIONS)

    def _each(self, work: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        assert self.data.exists()  # made before the runs begin
        with ThreadPoolExecutor(1 if self.cpu else 8) as pool:
            return dict(zip(work, pool.map(figures_of, work.values()), strict=True))

    def _loss(self, mode: str, pair: str) -> float:
        return last(self._tiny(mode, pair, f"{mode} {pair}", self.updates), "loss")

    def _resumed(self, mode: str) -> dict[str, float]:
        whole, again = (self._tiny(mode, "fused", f"{mode} {name}", self.updates) for name in ("whole", "again"))
        self._tiny(mode, "fused", f"{mode} parts", self.updates // 3)
        parts = self._tiny(mode, "fused", f"{mode} parts", self.updates)
        return {"resumed": difference(whole, parts), "repeated": difference(whole, again)}

    def _tiny(self, mode: str, pair: str, name: str, updates: int, more: str = "") -> Path:
        sizes = f"--arch linformer_roberta_tiny --lr 1e-3 --tokens-per-sample 64 --batch-size {self.rows} --clip-norm 1"
        return self._train(self.data, f"{sizes} {PAIRS[pair]} --max-update {updates} {more}", mode, name)[0]

    def _peak(self, mode: str, n: int, recomputed: bool) -> dict[str, float]:
        flags = f"""--arch linformer_roberta_base {PAIRS["fused"]} --lr 1e-5 --tokens-per-sample {n} --max-positions {n}
            --projected-length 256 --sample-break-mode none --batch-size {ROWS[n]} --max-update 3
            {"--checkpoint-activations" * recomputed}"""
        run, argv = self._train(self.folder / "large", flags, mode, f"peak {mode} {n} {recomputed}")
        for checkpoint in run.glob("*.pt"):
            checkpoint.unlink()  # of 2 GB
        plan = plan_of(argv, "h100", gpus=1)
        computed = training_bytes(plan.cfg, plan.rows, mode)
        return {"GB": last(run, "memory_bytes") / 1e9, "computed": (sum(computed.values()) - computed["other"]) / 1e9}

    def _train(self, data: Path, flags: str, mode: str, name: str) -> tuple[Path, list[str]]:
        """The folder of a run with its log, and its command."""
        run, words = self.folder / name, f"{SAME} {flags} {PRECISIONS[mode]} {'--cpu' * self.cpu}".split()
        argv = ["fairseq-train", str(data), "--user-dir", str(USER_DIR), *words]
        run_logged([*argv, "--save-dir", str(run)], run / LOG)
        return run, argv


def figures_of(step: Callable[[], Any]) -> Any:
    """The result of a step, or why it failed: the others may still tell something."""
    try:
        return step()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def last(run: Path, name: str) -> float:
    """A figure of the last log interval of a run."""
    return float(next(line[name] for line in reversed(read_metrics(run)) if line["split"] == "train"))


def difference(one: Path, other: Path) -> float:
    """The largest of a parameter between the last checkpoints of two runs."""
    first, second = (read(run / "checkpoint_last.pt").state for run in (one, other))
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)
