"""The task `streaming_masked_lm` on a corpus of 10 billion tokens: time to the first batch, memory, tokens/s.

    python recipes/measure/streaming_speed.py --out RUN --report docs/benchmarks/streaming.md

Makes corpora below OUT and deletes them in the end: large ones whose .bin is a sparse file (every token reads as <s>,
so that it takes no disk, and nothing of it can be masked) and a small one of random tokens. Each line of the table is
one process without workers, and its figures count from when Python has imported all. Beside it is fairseq's
`masked_lm`, with a smaller corpus, because its arrays and its reading of the whole file grow with it.
"""

import shutil
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

from linformer_fairseq.measuring import study
from linformer_fairseq.measuring.study import Cells, Options, flag, plain
from linformer_fairseq.plugin import register

SENTENCE = 500  # tokens
SYMBOLS = 32_000
STREAMING, THEIRS = "streaming_masked_lm", "masked_lm"


def measure(options: Options, cells: Cells) -> None:
    sizes = {"large": options.tokens, "middle": options.fairseq_tokens, "random": min(options.tokens, 2e7)}
    corpora = {name: options.out / "corpora" / name for name in sizes}
    names = {name: f"{many:,.0f} tokens{'' if name == 'random' else ', sparse'}" for name, many in sizes.items()}
    lines = [("large", STREAMING, "none"), ("large", STREAMING, "complete")]
    lines += [(name, task, "none") for name in ("middle", "random") for task in (STREAMING, THEIRS)]
    lines += [("random", task, "complete") for task in (STREAMING, THEIRS)]
    work = {}
    for name, task, blocks in lines:
        at = corpora[name]
        work[f"{names[name]}, {task}, {blocks}"] = study.in_a_process(iterate, task, at, blocks, options)
    shutil.rmtree(options.out / "corpora", ignore_errors=True)
    try:
        for name, many in sizes.items():
            make_corpus(corpora[name], int(many), sparse=name != "random")
        cells.run(work)
    finally:
        shutil.rmtree(options.out / "corpora")


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
        np.full(sentences, SENTENCE, "<i4").tofile(index)
        (np.arange(sentences, dtype="<i8") * SENTENCE * 2).tofile(index)


def iterate(name: str, data: Path, blocks: str, options: Options) -> dict[str, float]:
    """Starts a task in this process and iterates for some seconds; memory beyond imports is what is added to them."""
    register()
    before = study.status("VmRSS")
    study.forget_peak()
    start = time.perf_counter()
    # The training iterator of the task as fairseq's trainer asks for it.
    settings = {"tokens_per_sample": options.tokens_per_sample, "sample_break_mode": blocks, "seed": 1}
    task = TASK_REGISTRY[name].setup_task(TASK_DATACLASS_REGISTRY[name](data=str(data), **settings))
    task.load_dataset("train")
    rows: Any = {"max_sentences": options.batch_size, "max_positions": 10**9}
    batches = task.get_batch_iterator(task.dataset("train"), epoch=1, **rows).next_epoch_itr()
    next(batches)
    first = time.perf_counter() - start
    tokens, start = 0, time.perf_counter()
    while time.perf_counter() - start < options.seconds and batches.has_next():
        tokens += next(batches)["ntokens"]
    speed = tokens / (time.perf_counter() - start)
    peak, private = study.status("VmHWM"), study.status("RssAnon")
    memory = {"peak memory, MB": peak, "beyond imports, MB": peak - before, "private, MB": private}
    return {"first batch, s": first, **{name: value / 1e6 for name, value in memory.items()}, "tokens/s": speed}


ABOUT = f"""Sentences of {SENTENCE} tokens. Memory is the resident memory of the process, pages of files included, and
private what of it is no file's at the end. Seconds count from the end of the imports."""
FLAGS = [
    flag("--tokens", 1e10, "of the large corpus", quick=4e5),
    flag("--fairseq-tokens", 1e9, "of fairseq's corpus", quick=1e5),
    *plain(tokens_per_sample=(512, 64), batch_size=(16, 4)),
    flag("--seconds", 5.0, "that each process iterates", quick=0.1),
]
TABLE = study.comparison("The task streaming_masked_lm on a large corpus", ABOUT)
MEASUREMENT = study.Measurement(__file__, __doc__, FLAGS, measure, TABLE)

if __name__ == "__main__":
    raise SystemExit(MEASUREMENT.main())
