"""Shards of work run once, and none is lost when a process dies."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io import shards as module
from linformer_fairseq.io.records import WORK
from linformer_fairseq.io.shards import Claims, Done, Shard, run_shards


def write_line(out: Path, name: str) -> Done:
    """A shard that logs each call."""
    with (out / "ran").open("a") as file:
        file.write(f"{name}\n")
    target = out / f"{name}.txt"
    target.write_text(name)
    return Done({"length": len(name)}, [target])


def fail(out: Path, name: str) -> Done:
    """A shard that fails."""
    raise UsageError(f"{name}: broken")


def shards(out: Path, count: int = 6) -> list[Shard]:
    """Shards a, b, c, …"""
    return [Shard(name, (out, name)) for name in "abcdefghij"[:count]]


def ran(out: Path) -> list[str]:
    """Names of the shards in the order in which they ran."""
    return (out / "ran").read_text().split()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_shard_runs_once_and_results_keep_their_order(tmp_path: Path, workers: int) -> None:
    done = run_shards(tmp_path, shards(tmp_path), write_line, workers, "test")
    assert sorted(ran(tmp_path)) == list(done) == list("abcdef")
    assert done["c"]["result"] == {"length": 1} and list(done["c"]["files"]) == ["c.txt"]
    assert not list((tmp_path / WORK).glob("*.claim"))
    run_shards(tmp_path, shards(tmp_path), write_line, workers, "test")
    assert len(ran(tmp_path)) == 6


def test_an_error_keeps_finished_shards_and_releases_the_claims(tmp_path: Path) -> None:
    run_shards(tmp_path, shards(tmp_path, 2), write_line, 1, "test")
    with pytest.raises(UsageError, match="c: broken"):
        run_shards(tmp_path, shards(tmp_path, 3), fail, 1, "test")
    assert not list((tmp_path / WORK).glob("*.claim"))
    run_shards(tmp_path, shards(tmp_path, 3), write_line, 1, "test")
    assert ran(tmp_path) == list("abc")


def this_file(*arguments: object) -> subprocess.Popen[bytes]:
    """Run this file as a program."""
    root = str(Path(module.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)], env={**os.environ, "PYTHONPATH": root}, start_new_session=True
    )


def test_several_tasks_share_the_shards(tmp_path: Path) -> None:
    tasks = [this_file(tmp_path) for _ in range(2)]
    assert [task.wait(timeout=60) for task in tasks] == [0, 0]
    assert sorted(ran(tmp_path)) == list("abcdefghij")


def test_the_shard_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    claim = {"host": socket.gethostname(), "process": process.pid, "started": module._started(process.pid or 0)}
    path = tmp_path / "a.claim"
    path.write_text(json.dumps(claim))
    assert not Claims(tmp_path).take("a")
    process.kill()
    process.join()
    assert Claims(tmp_path).take("a")
    assert json.loads(path.read_text())["process"] == os.getpid()


def test_the_shard_of_another_machine_is_taken_over_when_its_claim_is_no_longer_renewed(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    path.write_text(json.dumps({"host": "elsewhere", "process": 1, "started": "1"}))
    assert not Claims(tmp_path).take("a")
    old = path.stat().st_mtime - 5 * module.HEARTBEAT_SECONDS - 1
    os.utime(path, (old, old))
    assert Claims(tmp_path).take("a")


def test_claims_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    path = tmp_path / "a.claim"
    with Claims(tmp_path) as claims:
        claims.take("a")
        os.utime(path, (0, 0))
        for _ in range(200):
            if path.stat().st_mtime > 0:
                break
            time.sleep(0.05)
        assert path.stat().st_mtime > 0


def alive(process: int) -> bool:
    """Whether a process runs."""
    return module._started(process) is not None and ") Z " not in Path(f"/proc/{process}/stat").read_text()


def test_workers_exit_when_their_parent_is_killed(tmp_path: Path) -> None:
    process = this_file(tmp_path, "sleep")
    told = tmp_path / "worker"
    for _ in range(600):
        if told.exists() and told.read_text():
            break
        time.sleep(0.05)
    worker = int(told.read_text())
    process.kill()
    process.wait()
    for _ in range(200):
        if not alive(worker):
            break
        time.sleep(0.05)
    assert not alive(worker)


def sleep(out: Path) -> Done:
    """A shard that writes its process id and does not return."""
    (out / "worker").write_text(str(os.getpid()))
    time.sleep(60)
    return Done({})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import test_shards as this

    out = Path(sys.argv[1])
    if sys.argv[2:] == ["sleep"]:
        run_shards(out, [Shard("sleep", (out,))], this.sleep, 1, "test")
    else:
        run_shards(out, this.shards(out, 10), this.write_line, 2, "test")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_claims_work_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take("a") and not second.take("a") and second.take("b")
    first.drop("a")
    assert second.take("a")
