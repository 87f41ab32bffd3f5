"""The next window is tokenised while one is computed."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.inference.documents import Documents, cut_windows
from linformer_fairseq.inference.encoding import DocumentEncoder, EncodingJob
from linformer_fairseq.inference.engine import Compute


@pytest.fixture
def encoder(checkpoint: Path, tmp_path: Path) -> DocumentEncoder:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["river", "good book", None, "winter"]}), path)
    job = EncodingJob(checkpoint, None, Documents((path,), ("text",)), compute=Compute("cpu"))
    cut_windows(job.documents, 2, tmp_path)
    return DocumentEncoder(job, tmp_path)


def test_the_following_window_is_prepared_by_another_thread(
    encoder: DocumentEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Semaphore(0)
    prepare = encoder._prepare

    def announced(window: int) -> object:
        begun.release()
        return prepare(window)

    monkeypatch.setattr(encoder, "_prepare", announced)
    assert encoder.prepared(0, 1)[0].num_rows == 2
    assert begun.acquire(timeout=60) and begun.acquire(timeout=60)  # the second one before it is asked for
    following = encoder.prepared(1, 0)
    assert following[1].tolist() == [False, True]
    assert encoder.prepared(1)[0].column("text").to_pylist() == [None, "winter"]  # a wrong guess
    assert begun.acquire(timeout=60) and begun.acquire(timeout=60) and not begun.acquire(blocking=False)


def test_an_error_in_a_window_is_raised_where_it_is_used(encoder: DocumentEncoder) -> None:
    encoder.prepared(0, 2)  # which does not exist
    with pytest.raises(UsageError, match="No such file"):
        encoder.prepared(2)
