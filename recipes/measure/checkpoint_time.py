"""How long training stands still for a checkpoint, and how long until it is written: fairseq's way, and ours.

    python recipes/measure/checkpoint_time.py --out RUN --report docs/benchmarks/checkpoints/time.md

The checkpoint is that of a base model with Adam's state, saved as `checkpoint_1_1.pt` and `checkpoint_last.pt`, as
fairseq does at --save-interval-updates. It is written to OUT: give a folder on the disk that is to be measured.
"""

import tempfile
import time
from pathlib import Path

import torch
from fairseq import checkpoint_utils, file_io

from linformer_fairseq.checkpoints.checkpoint import untrained
from linformer_fairseq.measuring.study import Cells, Measurement, Options, comparison, flag, in_a_process
from linformer_fairseq.training import files
from linformer_fairseq.training.saving import snapshot

VOCABULARY = 50265  # RoBERTa's
THEIRS, AT_ONCE, BACKGROUND = WAYS = (
    "fairseq: written, copied, not brought to the disk",
    "ours, not in the background: written, checksum, fsync, hard link",
    "ours: copied in memory, the rest in the background",
)
PAUSE = "training stands still (s)"
NOTE = """fairseq leaves the bytes to the operating system: a machine that fails within some seconds loses them. Ours
are on the disk when they are reported as saved. The parameters are in main memory here; on a GPU, the copy in memory is
the one from the GPU, which fairseq makes too (CUDA: not yet run). Writing in the background takes processor time beside
training."""


def measure(options: Options, cells: Cells) -> None:
    cells.turns({way: in_a_process(save, way, options.arch, options.out) for way in WAYS}, options.rounds)


def save(way: str, arch: str, out: Path) -> dict[str, float]:
    """Seconds of the pause and until all is written, while nothing else is computed, and the size."""
    model = untrained({"_name": arch, "max_positions": 512}, VOCABULARY)
    adam = [{name: torch.rand_like(p) for name in ("exp_avg", "exp_avg_sq")} for p in model.parameters()]
    state = {"model": model.state_dict(), "last_optimizer_state": {"state": dict(enumerate(adam))}, "extra_state": {}}
    with tempfile.TemporaryDirectory(dir=out) as folder:
        first, last = Path(folder, "checkpoint_1_1.pt"), Path(folder, "checkpoint_last.pt")
        start = time.perf_counter()
        if way == BACKGROUND:
            state = snapshot(state)
        pause = time.perf_counter() - start
        if way == THEIRS:
            # fairseq's own functions: this process has not registered the project, which replaces them.
            checkpoint_utils.torch_persistent_save(state, str(first))
            file_io.PathManager.copy(str(first), str(last), overwrite=True)
        else:
            files.write(state, first)
            files.copy(first, last)
        written = time.perf_counter() - start
        size = first.stat().st_size / 1e9
    return {PAUSE: pause if way == BACKGROUND else written, "until all is written (s)": written, "GB": size}


FLAGS = [flag("--arch", "linformer_roberta_base", quick="linformer_roberta_tiny"), flag("--rounds", 5, quick=1)]
TABLE = comparison("Time to write a checkpoint", NOTE, relative=PAUSE)
MEASUREMENT = Measurement(__file__, __doc__, FLAGS, measure, TABLE)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
