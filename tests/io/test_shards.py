"""Shards of work run once, and none is lost when a process dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io import processes, records
from linformer_fairseq.io import shards as module
from linformer_fairseq.io.files import digest, replace_when_done, sweep
from linformer_fairseq.io.records import WORK, StaleOutput
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


def test_a_record_that_another_task_writes_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = records.read_record

    def read_just_before(path: Path) -> dict[str, object] | None:
        content = read(path)
        if content is None and not (tmp_path / "ran").exists():
            monkeypatch.setattr(records, "read_record", read)
            run_shards(tmp_path, shards(tmp_path, 1), write_line, 0, "test")
        return content

    monkeypatch.setattr(records, "read_record", read_just_before)
    assert run_shards(tmp_path, shards(tmp_path, 1), write_line, 0, "test")["a"]["result"] == {"length": 1}
    assert ran(tmp_path) == ["a"]


@pytest.mark.parametrize("content", [None, "", "other"])
def test_a_shard_whose_file_is_gone_or_changed_is_computed_again(tmp_path: Path, content: str | None) -> None:
    run_shards(tmp_path, shards(tmp_path), write_line, 0, "test")
    (tmp_path / "c.txt").unlink()
    if content is not None:
        (tmp_path / "c.txt").write_text(content)
    done = run_shards(tmp_path, shards(tmp_path), write_line, 0, "test")
    assert ran(tmp_path)[6:] == ["c"] and (tmp_path / "c.txt").read_text() == "c" and list(done) == list("abcdef")


def test_another_input_is_refused_where_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_text("text")
    (tmp_path / "out").mkdir()
    work = [Shard("a", (tmp_path / "out", "a"), inputs=[source])]
    done = run_shards(tmp_path / "out", work, write_line, 0, "test")
    assert done["a"]["inputs"] == [[4, source.stat().st_mtime_ns, digest(source)]]
    before = source.stat()
    source.touch()
    run_shards(tmp_path / "out", work, write_line, 0, "test")  # the hash decides
    source.write_text("next")
    with pytest.raises(StaleOutput, match=f"unfinished work of another {source}"):
        run_shards(tmp_path / "out", work, write_line, 0, "test")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    run_shards(tmp_path / "out", work, write_line, 0, "test")  # believed by size and time …
    monkeypatch.setattr(records, "always_hash", True)
    with pytest.raises(StaleOutput):  # … but with --verify
        run_shards(tmp_path / "out", work, write_line, 0, "test")
    assert ran(tmp_path / "out") == ["a"]


@pytest.mark.parametrize("suffix", ["json", "claim"])
def test_what_a_loss_of_power_has_emptied_does_not_stop_the_work(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    run_shards(tmp_path, shards(tmp_path), write_line, 0, "test")
    (tmp_path / WORK / "b.json").unlink()
    path = tmp_path / WORK / f"b.{suffix}"
    path.write_text("")
    run_shards(tmp_path, shards(tmp_path), write_line, 0, "test")
    assert ran(tmp_path)[6:] == ["b"]


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


def test_a_claim_keeps_others_out_until_it_is_dropped(tmp_path: Path) -> None:
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take("a") and not second.take("a") and second.take("b")
    first.drop("a")
    assert second.take("a")


def test_the_shard_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    path, child = tmp_path / "a.claim", os.fork()
    if not child:
        Claims(tmp_path).take("a")
        signal.pause()
    while not (path.exists() and path.read_text()):
        time.sleep(0.01)
    assert not Claims(tmp_path).take("a")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert Claims(tmp_path).take("a")
    assert json.loads(path.read_text()) == {"owner": processes.own_name()}


@pytest.mark.parametrize("clock", [-3600, 0, 3600])
def test_a_claim_of_another_machine_lasts_as_long_as_it_is_renewed_by_whatever_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: int
) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    path, claims = tmp_path / "a.claim", Claims(tmp_path)
    path.write_text(json.dumps({"owner": "elsewhere.1-1"}))
    for renewal in range(10):
        os.utime(path, (time.time() + clock + renewal,) * 2)
        assert not claims.take("a")
        now += 3 * module.HEARTBEAT_SECONDS
    now += 3 * module.HEARTBEAT_SECONDS
    assert claims.take("a")


def test_containers_with_the_same_host_name_and_process_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this process had its number in each of them."""
    monkeypatch.setattr(processes, "_MACHINE", "one")
    one = Claims(tmp_path)
    assert one.take("a")
    with replace_when_done(tmp_path / "text") as partial:
        partial.write_text("one")
        monkeypatch.setattr(processes, "_MACHINE", "other")
        other = Claims(tmp_path)
        assert not other.take("a") and other.take("b")
        with replace_when_done(tmp_path / "text") as beside:
            beside.write_text("other")
        sweep(tmp_path)
        assert partial.exists()


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
    return processes._started(process) is not None


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
