"""How long training stands still for a checkpoint, and how long until it is written: fairseq's way, and ours.

    python recipes/measure/checkpoint_time.py --out RUN --report docs/benchmarks/checkpoints/time.md

The checkpoint is that of a base model with Adam's state, saved as `checkpoint_1_1.pt` and `checkpoint_last.pt`, as
fairseq does at --save-interval-updates. It is written to OUT: give a folder on the disk that is to be measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fairseq import checkpoint_utils, file_io

from linformer_fairseq.checkpoints import checkpoint
from linformer_fairseq.measuring.study import Cells, Measurement, Results, heading, in_a_process, markdown, rounds_of
from linformer_fairseq.models import linformer_roberta
from linformer_fairseq.training import files
from linformer_fairseq.training.saving import snapshot

VOCABULARY = 50265  # RoBERTa's
WAYS = (
    "fairseq: written, copied, not brought to the disk",
    "ours, not in the background: written, checksum, fsync, hard link",
    "ours: copied in memory, the rest in the background",
)


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", default="linformer_roberta_base", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="of each way (default: %(default)s)")


def measure(options: argparse.Namespace, cells: Cells) -> None:
    cells.turns({way: in_a_process(save, way, options.arch, options.out) for way in WAYS}, options.rounds)


def save(way: str, arch: str, out: Path) -> dict[str, Any]:
    """Seconds of the pause and until all is written, while nothing else is computed; parameters and bytes."""
    settings = checkpoint.complete_settings({"_name": arch, "max_positions": 512})
    encoder = linformer_roberta.LinformerRobertaEncoder(settings, checkpoint.symbols(VOCABULARY))
    model = linformer_roberta.LinformerRobertaModel(settings, encoder)
    adam = {
        i: {"exp_avg": torch.rand_like(p), "exp_avg_sq": torch.rand_like(p)} for i, p in enumerate(model.parameters())
    }
    state = {"model": model.state_dict(), "last_optimizer_state": {"state": adam}, "extra_state": {}}
    with tempfile.TemporaryDirectory(dir=out) as folder:
        first, last = Path(folder, "checkpoint_1_1.pt"), Path(folder, "checkpoint_last.pt")
        start = time.perf_counter()
        if way == WAYS[0]:
            # fairseq's own functions: this process has not registered the project, which replaces them.
            checkpoint_utils.torch_persistent_save(state, str(first))
            file_io.PathManager.copy(str(first), str(last), overwrite=True)
        else:
            copied = snapshot(state) if way == WAYS[2] else state
            pause = time.perf_counter() - start
            files.write(copied, first)
            files.copy(first, last)
        written = time.perf_counter() - start
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return {
            "pause": pause if way == WAYS[2] else written,
            "written": written,
            "parameters": parameters,
            "bytes": first.stat().st_size,
        }


def table(results: Results) -> str:
    runs = {way: rounds_of(results["cells"], way) for way in WAYS}
    pauses, written = ({way: median(run[key] for run in runs[way]) for way in WAYS} for key in ("pause", "written"))
    rows = [
        [
            *(way, f"{pauses[way]:.2f}", f"{pauses[way] / pauses[WAYS[0]]:.2f}"),
            *(f"{written[way]:.2f}", f"{written[way] / written[WAYS[0]]:.2f}"),
        ]
        for way in WAYS
    ]
    first = runs[WAYS[0]][0]
    about = (
        f"{first['parameters'] / 1e6:.0f} M parameters with Adam's state, {first['bytes'] / 1e9:.2f} GB; medians of "
    )
    about += f"{len(runs[WAYS[0]])} rounds in which the ways take turns."
    return (
        heading("Time to write a checkpoint", results, about)
        + markdown(["", "training stands still (s)", "ratio", "until all is written (s)", "ratio"], rows)
        + "\nfairseq leaves the bytes to the operating system: a machine that fails within some seconds loses them. Ours "
        "are on the disk when they are reported as saved. The parameters are in main memory here; on a GPU, the copy "
        "in memory is the one from the GPU, which fairseq makes too. Writing in the background takes processor time "
        "beside training.\n"
    )


MEASUREMENT = Measurement(
    *(__file__, __doc__, flags, measure, table), quick={"arch": "linformer_roberta_tiny", "rounds": 1}
)

if __name__ == "__main__":
    sys.exit(MEASUREMENT.main())
