"""Stages on a cluster of Dask, which loses a worker."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.__main__ import main
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io import pool
from linformer_fairseq.io.shards import Done, Shard, run_shards

distributed = pytest.importorskip("distributed", reason="the package distributed (extra cluster) is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as started:
        yield started


def die_once(out: Path, name: str) -> Done:
    """A shard whose first call ends its worker."""
    target = out / f"{name}.txt"
    if name == "c" and not (out / "died").exists():
        (out / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    target.write_text(name)
    return Done({"length": len(name)}, [target])


def die(out: Path, name: str) -> Done:
    """A shard that ends every worker until its cause is gone, like one that needs more memory than there is."""
    if (out / "too large").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return Done({"length": len(name)})


def refuse(name: str) -> Done:
    """A shard with an error that a person can correct."""
    raise UsageError(f"{name}: broken")


def test_a_call_whose_worker_dies_is_made_by_another(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "cluster", cluster.scheduler_address)
    done = run_shards(tmp_path, [Shard(name, (tmp_path, name)) for name in "abcdef"], die_once, 1, "test")
    assert (tmp_path / "died").exists() and list(done) == list("abcdef")
    with pytest.raises(UsageError, match="x: broken"):
        run_shards(tmp_path, [Shard("x", ("x",))], refuse, 1, "test")
    assert not list(tmp_path.glob(".work/*.claim"))


@pytest.mark.slow  # workers are started anew four times
def test_a_call_that_ends_every_worker_is_named_and_made_when_its_cause_is_gone(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "cluster", cluster.scheduler_address)
    (tmp_path / "too large").touch()
    with pytest.raises(UsageError, match="ended several workers .*start the same command again"):
        run_shards(tmp_path, [Shard("large", (tmp_path, "large"))], die, 1, "test")
    (tmp_path / "too large").unlink()
    assert run_shards(tmp_path, [Shard("large", (tmp_path, "large"))], die, 1, "test")["large"]["result"] == {
        "length": 5
    }


@pytest.mark.slow
def test_stages_end_with_the_same_bytes(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(12):
        chance = random.Random(number % 10)
        words = ["".join(chance.choices("aeioulmnrst", k=chance.randint(3, 8))) for _ in range(400)]
        (tmp_path / f"texts/{number}.txt").write_text("\n".join(" ".join(words[i : i + 20]) for i in range(0, 400, 20)))
    changes = [f"input={tmp_path}/texts", "file_characters=2000", "tokenizer.vocab_size=320", "split.valid=0.2"]
    run = ["run", "folder", *changes, "--out"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main([*run, str(alone), "--workers", "2"]) == 0
    lost = threading.Thread(target=lose, args=(cluster, shared / "dedup/.work"))
    lost.start()
    assert main([*run, str(shared), "--cluster", cluster.scheduler_address]) == 0
    assert not lost.is_alive()
    assert made(shared) == made(alone)


def lose(cluster: Any, work: Path) -> None:
    """Kill a worker as soon as there is a record in a folder."""
    while not list(work.glob("*.json")):
        time.sleep(0.01)
    os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)


def made(out: Path) -> dict[str, bytes]:
    """The documents and the data of a run."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.suffix in (".parquet", ".bin", ".idx", ".txt", ".model") and ".work" not in path.parts
    }


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("Some text.")
    words = ["extract", "--source", "text", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out")]
    assert main([*words, "--cluster", "nowhere://1"]) == 1
    assert "--cluster nowhere://1: no scheduler of Dask answers there" in capsys.readouterr().err
    assert pool.cluster is None  # the next command of this process runs here
