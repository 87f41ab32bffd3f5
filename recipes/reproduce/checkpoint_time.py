"""How long training stands still for a checkpoint, and how long until it is written: fairseq's way, and ours.

    python recipes/reproduce/checkpoint_time.py --out docs/benchmarks/checkpoints/time.md

The checkpoint is that of a base model with Adam's state, saved as `checkpoint_1_1.pt` and `checkpoint_last.pt`, as
fairseq does at --save-interval-updates. The ways take turns, so that a busy machine is busy for all of them.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, file_io

# fairseq's own ways, before this project's take their place.
fairseq_write, fairseq_copy = checkpoint_utils.torch_persistent_save, file_io.PathManager.copy

from linformer_fairseq.checkpoints import checkpoint  # noqa: E402
from linformer_fairseq.models import linformer_roberta  # noqa: E402
from linformer_fairseq.training import files  # noqa: E402
from linformer_fairseq.training.saving import snapshot  # noqa: E402

VOCABULARY = 50265  # RoBERTa's
FIRST, LAST = "checkpoint_1_1.pt", "checkpoint_last.pt"


def state_of(arch: str) -> tuple[dict[str, Any], int]:
    """The parameters of an architecture with the state of Adam, and the number of parameters."""
    settings = checkpoint.complete_settings({"_name": arch, "max_positions": 512})
    encoder = linformer_roberta.LinformerRobertaEncoder(settings, checkpoint.symbols(VOCABULARY))
    model = linformer_roberta.LinformerRobertaModel(settings, encoder)
    parameters = list(model.parameters())
    adam = {
        number: {"step": 1, "exp_avg": torch.rand_like(parameter), "exp_avg_sq": torch.rand_like(parameter)}
        for number, parameter in enumerate(parameters)
    }
    state = {"model": model.state_dict(), "last_optimizer_state": {"state": adam}, "extra_state": {}}
    return state, sum(parameter.numel() for parameter in parameters)


def fairseqs_way(state: dict[str, Any], folder: Path) -> tuple[float, float]:
    """Seconds of the pause, and until all is written (but perhaps not on the disk)."""
    start = time.perf_counter()
    fairseq_write(state, f"{folder / FIRST}")
    fairseq_copy(f"{folder / FIRST}", f"{folder / LAST}", overwrite=True)
    took = time.perf_counter() - start
    return took, took


def at_once(state: dict[str, Any], folder: Path) -> tuple[float, float]:
    """The same for our files, without the background."""
    start = time.perf_counter()
    files.write(state, folder / FIRST)
    files.copy(folder / FIRST, folder / LAST)
    took = time.perf_counter() - start
    return took, took


def in_background(state: dict[str, Any], folder: Path) -> tuple[float, float]:
    """The same with the background, while nothing else is computed."""
    start = time.perf_counter()
    copied = snapshot(state)
    pause = time.perf_counter() - start
    at_once(copied, folder)
    return pause, time.perf_counter() - start


WAYS: dict[str, Callable[[dict[str, Any], Path], tuple[float, float]]] = {
    "fairseq: written, copied, not brought to the disk": fairseqs_way,
    "ours, not in the background: written, checksum, fsync, hard link": at_once,
    "ours: copied in memory, the rest in the background": in_background,
}


def measure(arch: str, rounds: int, folder: Path) -> tuple[dict[str, tuple[float, float]], int, int]:
    """Median seconds of both kinds for each way, the number of parameters and of bytes of the file."""
    state, parameters = state_of(arch)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            seconds[name].append(way(state, folder))
    size = (folder / FIRST).stat().st_size
    medians = {
        name: (statistics.median(pause for pause, _ in found), statistics.median(whole for _, whole in found))
        for name, found in seconds.items()
    }
    return medians, parameters, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="linformer_roberta_base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write, on the disk that is to be measured")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        medians, parameters, size = measure(options.arch, options.rounds, Path(folder))
    pause_before, whole_before = next(iter(medians.values()))
    rows = [
        f"| {name} | {pause:.2f} | {pause / pause_before:.2f} | {whole:.2f} | {whole / whole_before:.2f} |"
        for name, (pause, whole) in medians.items()
    ]
    text = (
        "# Time to write a checkpoint\n\n"
        f"`python recipes/reproduce/checkpoint_time.py --arch {options.arch} --rounds {options.rounds}`: "
        f"{parameters / 1e6:.0f} M parameters with Adam's state, {size / 1e9:.2f} GB; "
        f"threads: {torch.get_num_threads()}, Python {platform.python_version()}, "
        f"torch {version('torch')}, ve-fairseq {version('ve-fairseq')}. Medians of {options.rounds} rounds, where the "
        "ways take turns, on a shared machine with other work on it: look at the ratios, not at the seconds.\n\n"
        "| | training stands still (s) | ratio | until all is written (s) | ratio |\n"
        "| --- | ---: | ---: | ---: | ---: |\n" + "\n".join(rows) + "\n\n"
        "fairseq leaves the bytes to the operating system: a machine that fails within some seconds loses them. Ours "
        "are on the disk when they are said to be saved. The parameters are in the host's memory here; on a GPU, the "
        "copy in memory is the one from the GPU, which fairseq makes too. Writing in the background takes processor "
        "time beside training.\n"
    )
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
