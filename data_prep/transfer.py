"""HTTP downloads that survive a bad connection: requests are retried, and files resumed where they were cut off."""

import errno
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from requests.exceptions import InvalidSchema, InvalidURL, TooManyRedirects
from tqdm import tqdm
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.util import Retry

from linformer_fairseq.errors import AGAIN, UsageError
from linformer_fairseq.version import __version__

ATTEMPTS = 7  # in a row without a byte of progress: two minutes
BACKOFF = 2.0  # the waits between them are 0, 4, 8, 16, … seconds
LONGEST_WAIT = 60
TIMEOUT = 60  # seconds without a byte
BLOCK = 1 << 20
LARGEST_PAGE = 16 << 20  # a server could send a page without end

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # statuses of a server that will answer later
_UNSATISFIABLE = 416  # there is nothing after the start of the range


def read_page(url: str, missing: str) -> str:
    """The text of a small page, such as a list of checksums; arguments and errors are those of :func:`fetch`."""

    def attempt() -> str:
        with _get(url, {}) as response:
            return str(response.raw.read(LARGEST_PAGE), "utf-8", "replace")

    return str(_with_retries(attempt, url, missing, lambda: 0))


def fetch(url: str, missing: str, file: io.FileIO) -> None:
    """Append to ``file`` what it lacks of the content of ``url``; the caller verifies the result.

    Raises UsageError if there is no such file, which means ``missing``, if the disk is full, the server refuses, or
    the connection fails repeatedly.
    """
    _with_retries(lambda: _fetch_rest(url, file), url, missing, lambda: _size(file))


def _with_retries(attempt: Callable[[], Any], url: str, missing: str, progress: Callable[[], int]) -> Any:
    """Call ``attempt`` until it succeeds; ``progress`` counts the bytes that have arrived."""
    new = Retry(ATTEMPTS - 1, backoff_factor=BACKOFF, backoff_max=LONGEST_WAIT, retry_after_max=LONGEST_WAIT)
    retries, furthest = new, progress()
    while True:
        response = None
        try:
            return attempt()
        except (TooManyRedirects, InvalidSchema, InvalidURL) as error:
            raise UsageError(f"{url}: the server redirects to nowhere ({error}); choose another --mirror") from error
        except requests.HTTPError as error:
            assert error.response is not None  # raise_for_status sets it
            error.response.close()
            if error.response.status_code == 404:
                raise UsageError(f"{url}: {missing}") from error
            if error.response.status_code not in _TRANSIENT:
                remedy = "try it in a browser, or choose another --mirror"
                raise UsageError(f"{url}: the server refuses ({error}); {remedy}") from error
            response, failure = error.response.raw, str(error)
        except (HTTPError, OSError) as error:
            failure = _reason(error)
        # Getting as far as before is no progress: a server may always break off at the same place.
        if progress() > furthest:
            retries, furthest = new, progress()
        try:
            retries = retries.increment(error=ConnectionError(failure))
        except MaxRetryError as error:
            remedy = f"check the connection or choose another --mirror; {AGAIN}"
            raise UsageError(f"{url}: {failure}, {ATTEMPTS} times in a row; {remedy}") from error
        tqdm.write(f"download: {failure}; retrying")
        retries.sleep(response)


def _reason(error: BaseException) -> str:
    """Why a request failed, without the layers that libraries wrap around it."""
    while isinstance(cause := getattr(error, "reason", None) or (error.args or [None])[-1], BaseException):
        error = cause
    return re.sub(r"^\w+\(.*?\): ", "", str(error))


def _get(url: str, headers: dict[str, str]) -> requests.Response:
    """A response whose body is still to be read; raises requests.HTTPError for statuses other than success and 416."""
    agent = f"linformer-fairseq/{__version__} (python -m data_prep download)"
    headers = {"User-Agent": agent, "Accept-Encoding": "identity", **headers}
    response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    if response.status_code != _UNSATISFIABLE:
        response.raise_for_status()
    return response


def _fetch_rest(url: str, file: io.FileIO) -> None:
    have, folder = _size(file), Path(file.name).parent
    with _get(url, {"Range": f"bytes={have}-"} if have else {}) as response:
        if response.status_code == _UNSATISFIABLE:
            return
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        if response.status_code == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != have:
                file.truncate(0)
                raise ConnectionError("the server does not send the part of the file that was requested")
            size = int(found[2])
        elif have:
            tqdm.write("download: the server cannot resume: downloading from the start")
            file.truncate(have := 0)
        free = shutil.disk_usage(folder).free
        if size is not None and size - have > free:
            needed = f"{size - have:,} bytes needed, {free:,} free"
            raise UsageError(f"{folder}: {needed}; make room or choose another --out")
        with tqdm(desc="download", total=size, initial=have, unit="B", unit_scale=True) as bar:
            for block in response.raw.stream(BLOCK, decode_content=False):
                _write(file, block, folder)
                bar.update(len(block))
        if size is not None and _size(file) != size:
            raise ConnectionError(f"the server sent {_size(file):,} of {size:,} bytes")


def _write(file: io.FileIO, block: bytes, folder: Path) -> None:
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) or 0 :]
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = f"make room; {AGAIN}" if full else "choose another --out"
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); {remedy}") from error


def _size(file: io.FileIO) -> int:
    return file.seek(0, io.SEEK_END)
