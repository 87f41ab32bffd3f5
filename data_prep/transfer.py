"""HTTP with patience: tries again when the connection breaks, and goes on with a file where it was cut off."""

from __future__ import annotations

import errno
import io
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from importlib import metadata
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import write_text

ATTEMPTS = 7  # in a row without a byte of progress: two minutes
FIRST_WAIT = 2.0  # seconds; doubled with every such attempt
LONGEST_WAIT = 60.0
TIMEOUT = 60  # seconds without a byte
BLOCK = 1 << 20
LARGEST_PAGE = 16 << 20

_PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses of a server that will answer later

T = TypeVar("T")


class NotFound(Exception):
    """The server has nothing at that address."""


def read_page(url: str) -> str:
    """The text of a small page, such as a list of checksums."""

    def attempt() -> str:
        with urlopen(_request(url), timeout=TIMEOUT) as response:
            return str(response.read(LARGEST_PAGE).decode("utf-8", "replace"))

    return _patiently(attempt, url, lambda: 0)


def fetch(url: str, file: io.FileIO, state: Path) -> None:
    """Appends to ``file`` what it lacks of the content of ``url``.

    Args:
        url: of a file.
        file: opened for appending; what it has must come from an earlier call.
        state: remembers between calls which version of the file that was. A file that has changed on the server
            since then is fetched from its start.

    Raises:
        NotFound: no such file.
        UsageError: the disk is full, the server refuses, or the connection breaks again and again.
    """
    _patiently(lambda: _fetch_rest(url, file, state), url, lambda: _size(file))


def _request(url: str, headers: dict[str, str] | None = None) -> Request:
    try:
        version = metadata.version("linformer-fairseq")
    except metadata.PackageNotFoundError:  # used from its folder
        version = "0"
    agent = f"linformer-fairseq/{version} (python -m data_prep download)"
    return Request(url, headers={"User-Agent": agent, "Accept-Encoding": "identity", **(headers or {})})


def _patiently(attempt: Callable[[], T], url: str, progress: Callable[[], int]) -> T:
    failures, furthest = 0, progress()
    while True:
        wait = 0.0
        try:
            return attempt()
        except HTTPError as error:
            error.close()
            if error.code == 404:
                raise NotFound(url) from error
            if error.code not in _PASSING:
                raise UsageError(f"{url}: the server refuses ({error}); see if a browser or --mirror helps") from error
            reason = str(error)
            asked = error.headers.get("Retry-After", "")
            wait = float(asked) if asked.isdecimal() else 0.0
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
        # Getting as far as before is no progress: a server that errs about the length would be asked for ever.
        now = progress()
        failures = 1 if now > furthest else failures + 1
        furthest = max(furthest, now)
        if failures == ATTEMPTS:
            raise UsageError(
                f"{url}: {reason}, {ATTEMPTS} times in a row; check the connection or choose another --mirror, "
                "then run the same command again: it goes on from here"
            )
        wait = min(LONGEST_WAIT, max(wait, FIRST_WAIT * 2 ** (failures - 1)))
        tqdm.write(f"download: {reason}; trying again in {wait:.0f} s")
        time.sleep(wait)


@dataclass(frozen=True)
class _Version:
    """What tells one version of a file from the next."""

    url: str
    size: int | None
    etag: str | None
    modified: str | None

    @classmethod
    def load(cls, path: Path, url: str) -> _Version | None:
        try:
            version = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return version if version.url == url else None

    def range_from(self, position: int) -> dict[str, str]:
        headers = {"Range": f"bytes={position}-"}
        # A weak ETag does not vouch for the bytes, so HTTP does not allow it here (RFC 9110, 13.1.5).
        validator = self.etag if self.etag and not self.etag.startswith("W/") else self.modified
        return {**headers, "If-Range": validator} if validator else headers


def _fetch_rest(url: str, file: io.FileIO, state: Path) -> None:
    known = _Version.load(state, url)
    if known is None:
        file.truncate(0)
    have = _size(file)
    if known is not None and have and have == known.size:
        return
    try:
        response: HTTPResponse = urlopen(
            _request(url, known.range_from(have) if known is not None and have else None), timeout=TIMEOUT
        )
    except HTTPError as error:
        if error.code != 416:
            raise
        file.truncate(0)
        raise ConnectionError("the file on the server is shorter than what is here") from error
    with response:
        version, start = _version(response, url)
        if start and (known is None or start != have or version.size != known.size or version.etag != known.etag):
            file.truncate(0)
            raise ConnectionError("the file has changed on the server")
        if not start:
            if have:
                tqdm.write("download: the file has changed, or this server cannot go on in the middle: from the start")
            file.truncate(0)
            write_text(state, json.dumps(asdict(version)))
        _copy(response, file, version.size, state.parent)
    if version.size is not None and _size(file) != version.size:
        raise ConnectionError(f"the connection broke off at {_size(file):,} of {version.size:,} bytes")


def _version(response: HTTPResponse, url: str) -> tuple[_Version, int]:
    """The version of the file that a response has, and where in the file the response starts."""
    start, size = 0, response.headers.get("Content-Length", "")
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if found is None:
            raise ConnectionError("the server does not say which part of the file it sends")
        start, size = int(found[1]), found[2]
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    return _Version(url, int(size) if size.isdecimal() else None, etag, modified), start


def _copy(response: HTTPResponse, file: io.FileIO, size: int | None, folder: Path) -> None:
    have = _size(file)
    free = shutil.disk_usage(folder).free
    if size is not None and size - have > free:
        raise UsageError(f"{folder}: {size - have:,} bytes needed, {free:,} free; make room or choose another --out")
    with tqdm(desc="download", total=size, initial=have, unit="B", unit_scale=True) as bar:
        while block := response.read(BLOCK):
            rest = memoryview(block)
            while rest:
                rest = rest[_write(file, rest, folder) :]
            bar.update(len(block))


def _write(file: io.FileIO, block: memoryview, folder: Path) -> int:
    try:
        return file.write(block) or 0
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room and run the same command again: it goes on from here" if full else "choose another --out"
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); {remedy}") from error


def _size(file: io.FileIO) -> int:
    return file.seek(0, io.SEEK_END)
