"""Lines of files: packed or plain, damaged or of another kind, in parts or whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import ReadErrors
from data_prep.sources import lines as module
from data_prep.sources.files import READ_ERRORS, opened
from data_prep.sources.lines import Lines, line_pieces
from linformer_fairseq.errors import UsageError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": lambda content: bz2.compress(content, 1),
    "xz": lambda content: lzma.compress(content, preset=0),
    "zst": lambda content: bytes(pa.Codec("zstd").compress(content, asbytes=True)),
    # As pzstd does: each frame comes after one that only tells its size.
    "pzstd": lambda content: (
        b"\x50\x2a\x4d\x18\x04\0\0\0size" + bytes(pa.Codec("zstd").compress(content, asbytes=True))
    ),
}
MANY = b"".join(b"%d %s\n" % (n, os.urandom(60).hex().encode()) for n in range(20_000))


def read(path: Path, problems: ReadErrors) -> list[str]:
    """All lines that can be read."""
    with opened(path) as file:
        return list(Lines(file, path.name, problems))


def read_bytes(content: bytes, problems: ReadErrors) -> list[str]:
    """All lines of a file that can be read."""
    return list(Lines(io.BytesIO(content), "a.txt", problems))


@pytest.mark.parametrize("name", [*PACK, "plain"])
def test_every_line_of_a_packed_file_comes_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    # Two members, as a file has that was appended to, or that was packed in parallel.
    pack = PACK.get(name, bytes)
    path.write_bytes(pack(MANY) + pack("naïve\nlast".encode()))
    assert read(path, ReadErrors()) == [*MANY.decode().splitlines(), "naïve", "last"]


@pytest.mark.parametrize("name", PACK)
def test_a_packed_file_that_was_cut_off_gives_what_came_before(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    content = PACK[name](MANY)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"file: after line \d+ \(byte \d+\): cut off or damaged"):
        read(path, ReadErrors())
    problems = ReadErrors(skip=True)
    lines = read(path, problems)
    assert len(problems.skipped) == 1
    assert len(lines) > 4000 and lines[:-1] == MANY.decode().splitlines()[: len(lines) - 1]


@pytest.mark.parametrize("name", PACK)
def test_a_packed_file_of_which_little_is_left_is_reported(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(PACK[name](MANY)[:30])
    problems = ReadErrors(skip=True)
    try:
        assert read(path, problems) == [] and len(problems.skipped) == 1
    except READ_ERRORS:
        pass  # some notice it when they are opened


@pytest.mark.parametrize("name", ["gz", "bz2", "xz"])
def test_streams_may_be_empty_and_padded_with_zero_bytes(tmp_path: Path, name: str) -> None:
    path, pack = tmp_path / "file", PACK[name]
    path.write_bytes(pack(b"") + bytes(8) + pack(MANY) + bytes(20_000) + pack(b"last") + bytes(512))
    assert read(path, ReadErrors()) == [*MANY.decode().splitlines(), "last"]


@pytest.mark.parametrize("name", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", [lambda stream: b"#" + stream[1:], lambda stream: stream[:7]])
def test_a_later_stream_that_is_damaged_is_reported(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    path, problems = tmp_path / "file", ReadErrors(skip=True)
    path.write_bytes(PACK[name](b"first\n") + damage(PACK[name](b"second\n")))
    assert read(path, problems) == ["first"]
    assert len(problems.skipped) == 1 and "file: after line 1 (byte 6): cut off or damaged" in problems.skipped[0]


@pytest.mark.parametrize("name", ["gz", "bz2", "xz"])
def test_a_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    content = bytearray(PACK[name](MANY))
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(UsageError, match="^file: (after )?line "):
        read(path, ReadErrors())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"caf\xe9", r"a.txt: line 2 (byte 4): not UTF-8 at byte 4 of the line"),
        (b"a\0b", r"a.txt: line 2 (byte 4): has a NUL byte"),
        (b"a" * 101, r"a.txt: line 2 (byte 4): longer than"),
    ],
)
def test_a_bad_line_is_named_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch, bad: bytes, message: str) -> None:
    monkeypatch.setattr(module, "LONGEST_LINE", 100)
    monkeypatch.setattr(module, "BLOCK", 10)
    content = b"one\n" + bad + b"\nthree\n"
    with pytest.raises(UsageError) as error:
        read_bytes(content, ReadErrors())
    assert str(error.value).startswith(message) and str(error.value).endswith("--on-error skip")
    problems = ReadErrors(skip=True)
    assert read_bytes(content, problems) == ["one", "three"]
    assert len(problems.skipped) == 1 and problems.skipped[0].startswith(message)


def test_an_empty_file_is_counted() -> None:
    problems = ReadErrors()
    assert read_bytes(b"", problems) == [] and problems.left_out == {"empty files": 1}


def test_a_byte_order_mark_is_no_text() -> None:
    assert read_bytes("\ufeffone\n\ufefftwo".encode(), ReadErrors()) == ["one", "\ufefftwo"]
    with pytest.raises(UsageError, match=r"line 1 \(byte 0\): .*, which --encoding utf-16 reads"):
        read_bytes("one\ntwo".encode("utf-16"), ReadErrors())


RUSSIAN = "Река течёт мимо мельницы, и дети считают лодки.\n\nОсенью здесь тихо.\n"
CHINESE = "河水流过古老的磨坊，孩子们数着小船。\n秋天这里很安静，只有风在芦苇中作响。\n"
JAPANESE = "川は古い水車小屋のそばを流れ、子供たちは舟を数える。\n秋になるとここは静かだ。\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((RUSSIAN, name) for name in ("cp1251", "koi8-r", "utf-16", "utf-16-le")),
        *((CHINESE, name) for name in ("gb18030", "big5", "utf-16-be")),
        *((JAPANESE, name) for name in ("shift_jis", "cp932")),
    ],
)
def test_a_text_in_another_encoding_names_it_and_is_read_in_it(text: str, encoding: str) -> None:
    text = text if encoding != "big5" else "河水流過古老的磨坊\n"
    content = ("ascii first\n" * 9 + text).encode(encoding)
    with pytest.raises(UsageError) as error:
        read_bytes(content, ReadErrors())
    named = re.search("which --encoding (\\S+) reads", str(error.value))
    for name in (encoding, named and named[1]):
        lines = list(Lines(io.BytesIO(content), "a.txt", ReadErrors(), encoding=name))
        assert "\n".join([*lines, ""]) == "ascii first\n" * 9 + text


def test_a_byte_that_an_encoding_does_not_have_costs_its_line() -> None:
    problems = ReadErrors(skip=True)
    content = "один\n".encode("cp1251") + b"\x98\n" + "два".encode("cp1251")
    assert list(Lines(io.BytesIO(content), "a.txt", problems, encoding="cp1251")) == ["один", "два"]
    assert problems.skipped == ["a.txt: line 2: not cp1251"]


def test_a_file_of_another_kind_does_not_fill_the_list() -> None:
    problems = ReadErrors(skip=True)
    assert read_bytes(b"\xff\n" * 1000, problems) == []
    assert len(problems.skipped) == module.MOST_REPORTS + 1
    assert problems.skipped[-1] == f"a.txt: {1000 - module.MOST_REPORTS} more lines could not be read"


def test_a_line_of_100_mb_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "long.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(b"one\n")
        for _ in range(100):
            file.write(bytes(range(97, 123)) * (1_000_000 // 26))
        file.write(b"\nthree\n")
    problems = ReadErrors(skip=True)
    tracemalloc.start()
    try:
        assert read(path, problems) == ["one", "three"]
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert problems.skipped == ["long.gz: line 2 (byte 4): longer than 32 MB"]


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n\0"), max_size=30)), st.integers(1, 50))
def test_pieces_hold_every_line_once(tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int) -> None:
    path = tmp_path_factory.mktemp("pieces") / "file"
    content = "\n".join(texts).encode()
    path.write_bytes(content)
    found: list[tuple[int, str]] = []
    pieces = line_pieces(path, size)
    for piece in pieces:
        assert piece.end is not None and piece.size == piece.end - piece.start
        with path.open("rb") as file:
            file.seek(piece.start)
            lines = Lines(file, "file", ReadErrors(skip=True), piece.start, piece.end)
            found += [(lines.offset, line) for line in lines]
    lines = Lines(io.BytesIO(content), "file", ReadErrors(skip=True))
    assert found == [(lines.offset, line) for line in lines]
    assert pieces[0].start == 0 and pieces[-1].end == len(content)
    assert all(0 < piece.size for piece in pieces) or not content


def test_lines_of_a_later_piece_are_counted_from_its_start(tmp_path: Path) -> None:
    lines = Lines(io.BytesIO(b"ok\n\xff\n"), "file", ReadErrors(), start=500)
    with pytest.raises(UsageError, match=r"file: line 2 after byte 500 \(byte 503\): not UTF-8"):
        list(lines)
