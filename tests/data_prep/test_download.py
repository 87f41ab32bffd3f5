"""Downloading from a server on this machine that has all the faults which servers and lines have."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import random
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_prep import transfer
from data_prep.config import DownloadConfig
from data_prep.download import download as download_stage
from linformer_fairseq.errors import UsageError

NAME = "tinywiki-20260101-pages-articles-multistream.xml.bz2"
PAGES = random.Random(1).randbytes(5_000_000)
OTHER = random.Random(2).randbytes(5_000_000)


def download(language: str, out: Path, mirror: str, date: str = "latest") -> Path:
    """Run the stage."""
    return download_stage(language, out, DownloadConfig(mirror, date))


@dataclass
class Server:
    """What the server has, what it does wrong, and what it was asked.

    Attributes:
        faults: what is done with the next requests for the file, in order: ``break`` (send half and hang up),
            ``busy`` (status 503), ``corrupt`` (change a byte), ``long`` (announce more than there is),
            ``loop`` (redirect to the same address), ``forbid`` (status 403).
        requests: (path, Range) of every request.
    """

    content: bytes = PAGES
    listed: bytes = PAGES
    etag: str | None = '"1"'
    modified: str | None = "Thu, 01 Jan 2026 00:00:00 GMT"
    ranges: bool = True
    faults: list[str] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    url: str = ""

    def files(self) -> list[str | None]:
        """The Range of each request for the file."""
        return [range_ for path, range_ in self.requests if path.endswith(".bz2")]


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    """The request handler of one server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append((self.path, self.headers["Range"]))
            server.agents.add(self.headers["User-Agent"])
            if self.path == "/tinywiki/latest/tinywiki-latest-sha1sums.txt":
                sha1 = hashlib.sha1(server.listed).hexdigest()
                lines = [f"{'0' * 40}  tinywiki-20260101-pages-articles.xml.bz2", f"{sha1}  {NAME}"]
                self.answer(200, "\n".join(lines).encode())
            elif self.path == "/newwiki/latest/newwiki-latest-sha1sums.txt":
                self.answer(200, f"{'0' * 40}  newwiki-20260101-site_stats.sql.gz\n".encode())
            elif self.path == f"/tinywiki/20260101/{NAME}":
                self.file(server.faults.pop(0) if server.faults else "")
            else:
                self.send_error(404)

        def file(self, fault: str) -> None:
            if fault in ("busy", "forbid"):
                self.send_error(503 if fault == "busy" else 403)
                return
            if fault == "loop":
                self.answer(302, b"", {"Location": self.path})
                return
            headers = {"ETag": server.etag, "Last-Modified": server.modified}
            content, start, status = server.content, 0, 200
            if self.headers["Range"] and server.ranges and self.unchanged():
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            body = content[start:]
            if fault == "corrupt":
                body = body[:-1] + bytes([body[-1] ^ 1])
            length = len(body) + (1000 if fault == "long" else 0)
            self.answer(status, body[: len(body) // 2] if fault == "break" else body, headers, length)

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # of a client that has given up
                super().handle()

        def unchanged(self) -> bool:
            return self.headers["If-Range"] in (None, server.etag, server.modified)

        def answer(
            self, status: int, body: bytes, headers: dict[str, str | None] | None = None, length: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                if value is not None:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that runs on the loopback address."""
    monkeypatch.setattr(transfer, "BACKOFF", 0.0)
    monkeypatch.setattr(transfer, "ATTEMPTS", 3)
    monkeypatch.setattr(transfer, "BLOCK", 100_000)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def assert_complete(path: Path, content: bytes = PAGES) -> None:
    """The file is the server's, and nothing else is left in its folder."""
    assert path.name == NAME and path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_the_newest_dump_arrives(server: Server, tmp_path: Path) -> None:
    assert_complete(download("tiny", tmp_path / "new" / "folder", server.url + "/"))
    assert server.files() == [None]
    assert all(agent.startswith("linformer-fairseq/") for agent in server.agents)


def test_a_finished_file_is_only_checked(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = download("tiny", tmp_path, server.url)
    before = path.stat().st_mtime_ns
    assert download("tiny", tmp_path, server.url) == path
    assert path.stat().st_mtime_ns == before and len(server.files()) == 1
    assert "is complete already" in capsys.readouterr().out


def test_a_damaged_finished_file_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(OTHER)
    assert_complete(download("tiny", tmp_path, server.url))


def test_what_breaks_off_is_resumed_there(server: Server, tmp_path: Path) -> None:
    server.faults = ["break", "busy", "break"]
    assert_complete(download("tiny", tmp_path, server.url))
    assert server.files() == [None, "bytes=2500000-", "bytes=2500000-", "bytes=3750000-"]


def cut_off(server: Server, folder: Path) -> None:
    """An earlier call that gave up in the middle."""
    server.faults = ["break", "busy", "busy"]
    with pytest.raises(UsageError, match=r"503.*3 times in a row; .* --mirror; the same command resumes from here"):
        download("tiny", folder, server.url)
    assert not (folder / NAME).exists() and (folder / f".{NAME}.partial").stat().st_size == 2_500_000
    server.requests.clear()


def test_a_later_call_resumes(server: Server, tmp_path: Path) -> None:
    cut_off(server, tmp_path)
    assert_complete(download("tiny", tmp_path, server.url))
    assert server.files() == ["bytes=2500000-"]


@pytest.mark.parametrize("etag", ["weak", None])
def test_a_server_without_a_strong_etag_resumes_too(server: Server, tmp_path: Path, etag: str | None) -> None:
    server.etag = 'W/"1"' if etag else None
    if etag is None:
        server.modified = None
    cut_off(server, tmp_path)
    assert_complete(download("tiny", tmp_path, server.url))
    assert server.files() == ["bytes=2500000-"]


def test_a_server_without_ranges_starts_again(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ranges = False
    cut_off(server, tmp_path)
    assert_complete(download("tiny", tmp_path, server.url))
    assert "downloading from the start" in capsys.readouterr().out


@pytest.mark.parametrize("content", [OTHER, OTHER[:2_000_000]], ids=["other", "shorter"])
@pytest.mark.parametrize("etag", ['"2"', None])
def test_a_file_that_has_changed_starts_anew(server: Server, tmp_path: Path, content: bytes, etag: str | None) -> None:
    if etag is None:
        server.etag = None
    cut_off(server, tmp_path)
    server.content = server.listed = content
    server.etag, server.modified = etag, "Fri, 02 Jan 2026 00:00:00 GMT"
    assert_complete(download("tiny", tmp_path, server.url), content)


def test_a_change_that_the_server_does_not_notice_is_noticed(server: Server, tmp_path: Path) -> None:
    server.etag = server.modified = None
    cut_off(server, tmp_path)
    server.content = server.listed = OTHER + b"more"
    assert_complete(download("tiny", tmp_path, server.url), OTHER + b"more")
    assert server.files() == ["bytes=2500000-", None]


def test_a_change_of_the_same_size_is_noticed_by_the_checksum(server: Server, tmp_path: Path) -> None:
    server.etag = server.modified = None
    cut_off(server, tmp_path)
    server.content = server.listed = OTHER
    assert_complete(download("tiny", tmp_path, server.url), OTHER)


def test_a_damaged_part_is_deleted_and_fetched_once_more(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = ["corrupt"]
    assert_complete(download("tiny", tmp_path, server.url))
    assert f"{NAME}: arrived damaged" in capsys.readouterr().out
    assert server.files() == [None, None]


def test_damaged_twice_is_given_up_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.faults = ["corrupt", "corrupt"]
    with pytest.raises(UsageError, match="arrived damaged .* twice and was deleted; choose another --mirror"):
        download("tiny", tmp_path, server.url)
    assert not list(tmp_path.iterdir())


def test_a_wrong_length_is_noticed_and_harmless_if_the_checksum_is_right(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = ["long"] * 9
    assert_complete(download("tiny", tmp_path, server.url))
    assert "5000000 bytes read, 1000 more expected" in capsys.readouterr().out


def test_breaking_off_at_the_same_place_is_no_progress(server: Server, tmp_path: Path) -> None:
    server.ranges, server.faults = False, ["break"] * 9
    with pytest.raises(UsageError, match=r"\.bz2: .* 3 times in a row; check the connection"):
        download("tiny", tmp_path, server.url)
    assert len(server.files()) == 3 and not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("fault", "message"), [("loop", "redirects to nowhere"), ("forbid", "the server refuses .*403")]
)
def test_a_server_that_does_not_give_the_file(server: Server, tmp_path: Path, fault: str, message: str) -> None:
    server.faults = [fault] * 99
    with pytest.raises(UsageError, match=f"{message}.* choose another --mirror"):
        download("tiny", tmp_path, server.url)
    assert not (tmp_path / NAME).exists()


def test_no_room_is_said_before_the_start(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=4_999_999)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"5,000,000 bytes needed, 4,999,999 free; make room or choose"):
        download("tiny", tmp_path, server.url)


def test_a_disk_that_fills_up_keeps_what_has_arrived(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = transfer._write

    class Full:
        def write(self, block: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def fill_up(file: object, block: bytes, folder: Path) -> None:
        full = (folder / f".{NAME}.partial").stat().st_size >= 1_000_000
        write(Full() if full else file, block, folder)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_write", fill_up)
        with pytest.raises(
            UsageError, match="No space left on device.*; make room; the same command resumes from here"
        ):
            download("tiny", tmp_path, server.url)
    assert_complete(download("tiny", tmp_path, server.url))
    assert server.files() == [None, "bytes=1000000-"]


def test_two_processes_do_not_write_the_same_file(server: Server, tmp_path: Path) -> None:
    with (tmp_path / f".{NAME}.partial").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process is downloading it; wait for that one"):
            download("tiny", tmp_path, server.url)


@pytest.mark.parametrize(
    ("language", "date", "message"),
    [
        (
            "xx",
            "latest",
            "xxwiki-latest-sha1sums.txt: not found, so there is no such Wikipedia; the code of a language",
        ),
        ("tiny", "20250101", "no such Wikipedia, or no dump of this date: see http"),
        ("../tiny", "latest", "language '../tiny': no such Wikipedia; the code of a language is"),
        ("tiny", "today", "--date today: must be like 20260101, or latest"),
        ("new", "latest", "this dump is not finished; choose an earlier one of http"),
    ],
)
def test_what_is_not_there_is_explained(server: Server, tmp_path: Path, language: str, date: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        download(language, tmp_path / "out", server.url, date)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mirror", ["file:///etc", "dumps.wikimedia.org", "ftp://127.0.0.1"])
def test_other_addresses_are_refused(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(UsageError, match="must begin with https:// or http://"):
        download("tiny", tmp_path, mirror)


def test_no_server_at_all(server: Server, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as unused:
        port = unused.server_address[1]
    with pytest.raises(UsageError, match="Connection refused.*3 times in a row; check the connection"):
        download("tiny", tmp_path, f"http://127.0.0.1:{port}")


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: cannot be written .*; choose another --out"):
        download("tiny", tmp_path / "file", server.url)
