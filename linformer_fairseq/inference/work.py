"""The way of the documents: read and tokenised ahead of the model, computed, written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_prep.encoders import Encoder
from linformer_fairseq.inference.batches import Order
from linformer_fairseq.inference.columns import Present
from linformer_fairseq.inference.engine import Engine, Values, of_rows
from linformer_fairseq.inference.inputs import Inputs, texts_of, windows
from linformer_fairseq.inference.parts import Counts, Output
from linformer_fairseq.inference.sequences import Sequences, encode

Item = TypeVar("Item")
Columns = Callable[[Values, Present], dict[str, pa.Array]]


@dataclass(frozen=True)
class Window:
    """Rows of the input and what the model is to read of them.

    Attributes:
        rows: the columns of the input.
        present: (rows,), which of them have text; the sequences are of these.
        sequences: encoded.
    """

    rows: pa.Table
    present: Present
    sequences: Sequences

    def counts(self) -> Counts:
        """What is said of the output in the end."""
        return {
            "documents": len(self.present),
            "without text": int((~self.present).sum()),
            "longer": self.sequences.longer,
            "tokens": sum(map(len, self.sequences.ids)),
        }


@dataclass(frozen=True)
class Recipe:
    """How documents become columns.

    Attributes:
        encoder: of the checkpoint's tokenizer.
        longest: tokens that the model reads.
        keep: of longer documents, see `sequences.encode`.
        columns: from the values of the rows with text.
        weighted: whether a mean over chunks counts them by their tokens.
        largest: whether of chunks the largest of each value is taken, not the mean.
    """

    encoder: Encoder
    longest: int
    keep: str
    columns: Columns
    weighted: bool = True
    largest: bool = False

    def window(self, rows: pa.Table, text: tuple[str, ...]) -> Window:
        """Tokenises rows."""
        texts = texts_of(rows, text)
        some = [row for row in texts if row is not None]
        none = Sequences([], np.empty(0, dtype=np.int64), 0)
        sequences = encode(some, self.encoder, self.longest, self.keep) if some else none
        return Window(rows, np.array([row is not None for row in texts]), sequences)

    def compute(self, window: Window, engine: Engine, tick: Callable[[Order, int], None]) -> dict[str, pa.Array]:
        """The columns of a window's rows."""
        ids, owners = window.sequences.ids, window.sequences.owners
        weights = np.array([len(part) for part in ids], dtype=np.float32) if self.weighted else None
        return self.columns(of_rows(engine.run(ids, tick), owners, weights, self.largest), window.present)


def do(inputs: Inputs, recipe: Recipe, engine: Engine, output: Output, total: int, rows: int) -> tuple[float, float]:
    """Computes what is missing and joins the output.

    Args:
        inputs: all documents.
        recipe: what becomes of them.
        engine: the model.
        output: opened.
        total: rows of the inputs.
        rows: most of a window.

    Returns:
        Documents and tokens per second, of what was missing.
    """
    done = output.rows()
    prepared = (recipe.window(w, inputs.text) for w in windows(inputs.batches(done), inputs.text, rows))
    start, tokens = time.perf_counter(), 0
    with tqdm(initial=done, total=total, unit=" documents", unit_scale=True, smoothing=0.05) as bar:
        for window in ahead(prepared):
            first = np.diff(window.sequences.owners, prepend=-1) > 0

            def tick(batch: Order, of_batch: int, first: Present = first) -> None:
                nonlocal tokens
                tokens += of_batch
                bar.set_postfix_str(f"{tokens / (time.perf_counter() - start):,.0f} tokens/s", refresh=False)
                bar.update(int(first[batch].sum()))

            found = recipe.compute(window, engine, tick)
            kept = {name: window.rows.column(name) for name in inputs.keep}
            output.add(pa.table({**kept, **found}), window.counts())
            bar.update(int((~window.present).sum()))
    seconds = time.perf_counter() - start
    output.join()
    return (total - done) / seconds, tokens / seconds


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, the next of them made by a thread while one is used: tokenising must not stall the model."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, iterator, None)
            yield item
