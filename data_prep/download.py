"""The command `download`: a Wikipedia dump, resumed where it was cut off, and verified by its checksum.

Layout of https://dumps.wikimedia.org: a folder per wiki; in it a folder per date of a dump, and ``latest``; in each
a list ``<wiki>-<date>-sha1sums.txt``. The list in ``latest`` has the dated names of the files. A dated file does not
change, so a download that takes days stays one of the same dump when the next dump appears.
"""

import fcntl
import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from data_prep.config import DownloadConfig
from data_prep.transfer import fetch, read_page
from linformer_fairseq.errors import UsageError

_DATABASES = {"be-tarask": "be_x_old"}  # the one Wikipedia whose address and database have different names
_CODES = (
    "the code of a language is what the address of its Wikipedia begins with, as in simple.wikipedia.org; "
    "they are listed at https://meta.wikimedia.org/wiki/List_of_Wikipedias"
)


def download(language: str, out: Path, config: DownloadConfig) -> Path:
    """Download the articles of a Wikipedia, ``<wiki>-<date>-pages-articles-multistream.xml.bz2``, into ``out``.

    An existing file is only verified. What an earlier call left unfinished is completed. A file that arrives
    damaged is deleted and downloaded once more. Raises UsageError if there is no such Wikipedia or dump, no space,
    no connection, or the file arrives damaged twice.
    """
    code = language.lower()
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", code):
        raise UsageError(f"language {language!r}: no such Wikipedia; {_CODES}")
    if not re.match(r"https?://[^/]", config.mirror):
        rule = f"must begin with https:// or http://, for example {DownloadConfig.mirror}"
        raise UsageError(f"--mirror {config.mirror}: {rule}")
    if not re.fullmatch(r"latest|\d{8}", config.date):
        raise UsageError(f"--date {config.date}: must be like 20260101, or latest")
    wiki = _DATABASES.get(code, code).replace("-", "_") + "wiki"
    folder = f"{config.mirror.rstrip('/')}/{wiki}"
    name, sha1 = _listed(folder, wiki, config.date)
    target = out / name
    if target.exists() and _verified(target, sha1):
        print(f"download: {target} is complete already")
        return target
    with _partial(target) as (file, path):
        for last in (False, True):
            url = f"{folder}/{name.split('-')[1]}/{name}"
            fetch(url, "listed, but not on this server; choose another --mirror", file)
            if _verified(path, sha1):
                break
            file.truncate(0)
            found = f"{name}: arrived damaged (its SHA-1 is not {sha1})"
            if last:
                path.unlink()
                raise UsageError(f"{found} twice and was deleted; choose another --mirror, or try again later")
            print(f"download: {found} and was deleted; downloading it once more")
            name_now, sha1 = _listed(folder, wiki, config.date)
            if name_now != name:
                raise UsageError(f"{name}: the server has just replaced it by {name_now}; run the same command again")
        os.replace(path, target)
    print(f"download: {target} is complete, and its checksum is right")
    return target


def _listed(folder: str, wiki: str, date: str) -> tuple[str, str]:
    """Name and SHA-1 of the file, from the server's list."""
    url = f"{folder}/{date}/{wiki}-{date}-sha1sums.txt"
    dumps = "" if date == "latest" else f", or no dump of this date: see {folder}/"
    page = read_page(url, f"not found, so there is no such Wikipedia{dumps}; {_CODES}")
    pattern = rf"^([0-9a-f]{{40}})\s+\*?({wiki}-\d{{8}}-pages-articles-multistream\.xml\.bz2)\s*$"
    found = re.search(pattern, page, re.MULTILINE)
    if found is None:
        unfinished = "lists no pages-articles-multistream.xml.bz2, so this dump is not finished"
        raise UsageError(f"{url}: {unfinished}; choose an earlier one of {folder}/ with --date")
    return found[2], found[1]


@contextmanager
def _partial(target: Path) -> Iterator[tuple[io.FileIO, Path]]:
    """The unfinished file, open for appending by this process alone, and its path."""
    path = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)
    except OSError as error:
        raise UsageError(f"{target.parent}: cannot be written ({error.strerror}); choose another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{target}: another process is downloading it; wait for that one") from error
        except OSError:
            pass  # a file system without locks
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise UsageError(f"{target}: another process has just finished it; run the same command again")
        yield file, path


def _verified(path: Path, sha1: str) -> bool:
    digest = hashlib.sha1(usedforsecurity=False)  # the only list of all files that the server has, beside MD5
    size = path.stat().st_size
    with path.open("rb") as file, tqdm(desc="verifying", total=size, unit="B", unit_scale=True, leave=False) as bar:
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest() == sha1
