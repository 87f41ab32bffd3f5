"""The task `streaming_masked_lm` on a corpus of 10 billion tokens: time to the first batch, memory, tokens/s, resuming.

    python recipes/reproduce/streaming_speed.py --out corpus --report docs/benchmarks/streaming.md

Makes corpora below --out and deletes them in the end: a large one whose .bin is a sparse file (every token reads as
<s>, so that it takes no disk, and nothing of it can be masked) and a small one of random tokens. Each line of the table
is one fresh process without workers, and its figures count from when Python has imported all. Beside it is fairseq's
`masked_lm`, with a smaller corpus, because its arrays and its reading of the whole file grow with it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]

from recipes.reproduce.command import as_typed  # noqa: E402

SENTENCE = 500  # tokens
SYMBOLS = 32_000
SKIPPED = 50  # batches before the position that is saved and gone on from


def make_corpus(folder: Path, tokens: int, sparse: bool) -> None:
    """Writes {train.bin,train.idx,dict.txt}: sentences of `SENTENCE` tokens, `tokens` in all."""
    folder.mkdir(parents=True)
    lines = (f"w{number} 1\n" for number in range(SYMBOLS - 5))
    (folder / "dict.txt").write_text("".join(lines), encoding="utf-8")
    sentences = max(tokens // SENTENCE, 1)
    with (folder / "train.bin").open("wb") as data:
        if sparse:
            data.truncate(sentences * SENTENCE * 2)
        else:
            np.random.default_rng(0).integers(4, SYMBOLS - 1, sentences * SENTENCE, np.uint16).tofile(data)
    with (folder / "train.idx").open("wb") as index:
        index.write(b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 8, sentences))
        for first in range(0, sentences, 1 << 20):
            np.full(min(1 << 20, sentences - first), SENTENCE, "<i4").tofile(index)
        for first in range(0, sentences, 1 << 20):
            (np.arange(first, min(first + (1 << 20), sentences), dtype="<i8") * SENTENCE * 2).tofile(index)


def measure(name: str, data: str, settings: dict[str, Any], batch_size: int, seconds: float) -> dict[str, Any]:
    """Starts task `name` in this process and iterates for `seconds`.

    Returns:
        `first` (seconds to the first batch), `imported` and `peak` (MB of resident memory after the imports and at most
        from then on), `private` (MB of it in the end that is no file's), `speed` (tokens/s).
    """
    task = task_of(name, data, settings)
    before = memory()["VmRSS"]
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    start = time.perf_counter()
    batches = iterator_of(task(), batch_size).next_epoch_itr()
    next(batches)
    first = time.perf_counter() - start
    tokens, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds and batches.has_next():
        tokens += next(batches)["ntokens"]
    speed = tokens / (time.perf_counter() - start)
    after = memory()
    return {"first": first, "imported": before, "peak": after["VmHWM"], "private": after["RssAnon"], "speed": speed}


def go_on(data: str, settings: dict[str, Any], batch_size: int, state: dict[str, Any] | None) -> dict[str, Any]:
    """The state after `SKIPPED` batches, or the one that is given, and a digest of the ten batches that follow."""
    batches = iterator_of(task_of("streaming_masked_lm", data, settings)(), batch_size)
    if state is not None:
        batches.load_state_dict(state)
    running = batches.next_epoch_itr()
    if state is None:
        for _ in range(SKIPPED):
            next(running)
        state = batches.state_dict()
    digest = hashlib.sha256()
    for _ in range(10):
        batch = next(running)
        for tensor in (batch["id"], batch["net_input"]["src_tokens"], batch["target"]):
            digest.update(tensor.numpy().tobytes())
    return {"state": state, "digest": digest.hexdigest()}


def task_of(name: str, data: str, settings: dict[str, Any]) -> Any:
    """Imports all there is to import and returns what makes the task, its dataset loaded."""
    from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

    import linformer_fairseq  # noqa: F401  (registers the task)

    def make() -> Any:
        task = TASK_REGISTRY[name].setup_task(TASK_DATACLASS_REGISTRY[name](data=data, seed=1, **settings))
        task.load_dataset("train")
        return task

    return make


def iterator_of(task: Any, batch_size: int) -> Any:
    """The training iterator as fairseq's trainer asks for it."""
    return task.get_batch_iterator(task.dataset("train"), max_sentences=batch_size, max_positions=10**9, epoch=1)


def memory() -> dict[str, float]:
    """This process's memory by the names of /proc/self/status, in MB."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 / 1e6 for words in lines if words[-1] == "kB"}


def in_a_process(**call: Any) -> dict[str, Any]:
    """The result of `measure` or `go_on` in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--call", json.dumps(call)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{call} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(folder: Path, options: argparse.Namespace) -> list[str]:
    """Makes the corpora, runs all, and returns the lines of the report's table and of what follows it."""
    small = min(int(options.tokens), 20_000_000)
    corpora = {
        "large": (int(options.tokens), True),
        "for fairseq": (int(options.fairseq_tokens), True),
        "random": (small, False),
    }
    for name, (tokens, sparse) in corpora.items():
        make_corpus(folder / name.replace(" ", "-"), tokens, sparse)
    rows = [
        "| tokens | task | blocks | first batch, s | peak memory, MB | beyond imports, MB | private, MB | tokens/s |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    length = {"tokens_per_sample": options.tokens_per_sample}
    for corpus, task, mode in (
        ("large", "streaming_masked_lm", "none"),
        ("large", "streaming_masked_lm", "complete"),
        ("for fairseq", "streaming_masked_lm", "none"),
        ("for fairseq", "masked_lm", "none"),
        ("random", "streaming_masked_lm", "none"),
        ("random", "streaming_masked_lm", "complete"),
        ("random", "masked_lm", "none"),
        ("random", "masked_lm", "complete"),
    ):
        call = {"name": task, "data": str(folder / corpus.replace(" ", "-")), "batch_size": options.batch_size}
        settings = {**length, "sample_break_mode": mode}
        found = in_a_process(**call, settings=settings, seconds=options.seconds)
        tokens, sparse = corpora[corpus]
        rows.append(
            f"| {tokens / 1e6:,.0f} M{', sparse' if sparse else ''} | {task} | {mode} | {found['first']:.2f} | "
            f"{found['peak']:.0f} | {found['peak'] - found['imported']:.0f} | {found['private']:.0f} | "
            f"{found['speed']:,.0f} |"
        )
        print(rows[-1], flush=True)
    for corpus in ("large", "random"):
        call = {"data": str(folder / corpus), "batch_size": options.batch_size, "settings": length}
        straight = in_a_process(**call, state=None)
        resumed = in_a_process(**call, state=straight["state"])
        same = "the same" if straight["digest"] == resumed["digest"] else "NOT the same"
        tokens = corpora[corpus][0]
        rows.append(
            f"{'' if corpus == 'random' else chr(10)}{tokens / 1e6:,.0f} M tokens: ten batches after "
            f"batch {SKIPPED}, in a process that went on from the saved position, are {same} to the bit.  "
        )
    return rows


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the corpora, 250 MB")
    parser.add_argument("--tokens", type=float, default=1e10, help="of the large corpus (default: 1e10)")
    parser.add_argument("--fairseq-tokens", type=float, default=1e9, help="of fairseq's corpus (default: 1e9)")
    parser.add_argument("--tokens-per-sample", type=int, default=512, help="(default: 512)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: 16)")
    parser.add_argument("--seconds", type=float, default=5, help="that each process iterates (default: 5)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="Markdown file for the table")
    options = parser.parse_args(arguments)
    folder = options.out / "streaming-corpora"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        rows = compare(folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    versions = [f"{module.__name__} {module.__version__}" for module in (__import__("torch"), np)]
    command = as_typed(__file__, arguments)
    report = "\n".join(
        [
            "# The task streaming_masked_lm on a large corpus",
            "",
            f"`{command}`; {', '.join(versions)}, Python {platform.python_version()}, {platform.machine()}. Sentences "
            f"of {SENTENCE} tokens. Memory is the resident memory of the process, pages of files included, and private "
            "what of it is no file's at the end. Seconds count from the end of the imports.",
            "",
            *rows,
            "",
        ]
    )
    print(report)
    if options.report:
        from linformer_fairseq.io.files import replace_when_done

        options.report.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_done(options.report, force=True) as temporary:
            temporary.write_text(report, encoding="utf-8")
    return int("NOT the same" in report)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--call"]:
        asked = json.loads(sys.argv[2])
        print(json.dumps(measure(**asked) if "name" in asked else go_on(**asked)))
    else:
        sys.exit(main(sys.argv[1:]))
