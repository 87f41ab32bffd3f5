"""Which files are read: those named, those of the right kind in a folder, those in an archive."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Literal

import pytest

from data_prep.sources import Piece, ReadErrors, tables, wikipedia
from data_prep.sources.files import STDIN, TARS, expand, files_in, input_files, kind, stem, whole
from data_prep.sources.lines import Lines, line_pieces
from linformer_fairseq.errors import UsageError

TEXTS = frozenset({".txt", ".md"}) | TARS


def pack(path: Path, members: dict[str, bytes], mode: Literal["w", "w:gz", "w:bz2", "w:xz"]) -> Path:
    """A tar archive with members of any name."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def content_of(path: Path, problems: ReadErrors) -> list[tuple[str, bytes]]:
    """(what messages call it, content) of every file in an archive."""
    return [(where, file.read()) for where, _, file in files_in(Piece(path, 0), TEXTS, problems)]


def test_a_folder_gives_its_files_in_order_and_lists_what_it_leaves_out(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a.MD", "c.txt.gz", ".hidden/3.txt", "b/.4.txt", "cover.png", "d.tar.xz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    problems = ReadErrors()
    found = input_files([tmp_path], TEXTS, problems)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a.MD", "b/2.txt", "c.txt.gz", "d.tar.xz"]
    assert problems.left_out == {".png files": 1, "hidden": 2} and not problems.skipped and problems.files == 5


def test_folder_links_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for name in ("in/a.txt", "in/sub/b.txt", "outside/c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "in/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/sub/up").symlink_to("..")
    (tmp_path / "in/away").symlink_to(tmp_path / "outside")
    names = ["a.txt", "away/c.txt", "sub/b.txt"]
    found = input_files([tmp_path / "in"], TEXTS, ReadErrors())
    assert [str(path.relative_to(tmp_path / "in")) for path in found] == names
    assert expand(f"{tmp_path}/in/**/*.txt", ReadErrors()) == found
    (tmp_path / "in/gone.txt").symlink_to("nowhere")
    with pytest.raises(UsageError, match=r"in/gone\.txt: a link to a file that does not exist"):
        input_files([tmp_path / "in"], TEXTS, ReadErrors())


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "corpus[en]").mkdir()
    for name in ("Book [12].txt", "Book 1.txt", "Book 2.txt", ".hidden.txt", "corpus[en]/x.txt"):
        (tmp_path / name).touch()

    def names(pattern: str) -> list[str]:
        return [path.name for path in expand(f"{tmp_path}/{pattern}", ReadErrors())]

    assert names("Book [12].txt") == ["Book [12].txt"] and names("corpus[en]") == ["corpus[en]"]
    assert names("Book [1].txt") == ["Book 1.txt"] and names("*[en]*/*") == ["x.txt"]
    assert names("Book ?.txt") == ["Book 1.txt", "Book 2.txt"] and names(".h*") == [".hidden.txt"]
    assert names("**") == [tmp_path.name]
    with pytest.raises(UsageError, match="no file matches"):
        names("*.pdf")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_folder_without_permission_is_named() -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "closed").mkdir(0o700)
        os.seteuid(65534)
        try:
            for given in (folder, f"{folder}/*/*.txt", f"{folder}/**/*.txt"):
                with pytest.raises(UsageError, match=r"closed: the folder cannot be read \(Permission denied\)"):
                    input_files(expand(given, ReadErrors()), TEXTS, ReadErrors())
        finally:
            os.seteuid(0)


def test_a_file_that_is_named_is_read_whatever_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "corpus.log"
    path.touch()
    assert input_files([path, Path("-")], TEXTS, ReadErrors()) == [path, Path("-")]


def test_what_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such file or folder"):
        input_files([tmp_path / "nowhere"], TEXTS, ReadErrors(skip=True))
    (tmp_path / "a.pdf").touch()
    with pytest.raises(UsageError, match=r"the folder holds no files of its kinds \(\.md \.tar"):
        input_files([tmp_path], TEXTS, ReadErrors())
    problems = ReadErrors(skip=True)
    assert input_files([tmp_path], TEXTS, problems) == [] and len(problems.skipped) == 1


@pytest.mark.parametrize(
    ("mode", "suffixes"),
    [("w", ["tar"]), ("w:gz", ["tar.gz", "tgz"]), ("w:bz2", ["tar.bz2", "tbz2"]), ("w:xz", ["tar.xz", "txz"])],
)
def test_archives_are_read_in_their_own_order(
    tmp_path: Path, mode: Literal["w", "w:gz", "w:bz2", "w:xz"], suffixes: list[str]
) -> None:
    members = {"x/b.txt": b"Second", "x/a.txt": b"First", "x/.c.txt": b"No", "x/d.png": b"No"}
    for suffix in suffixes:
        path = pack(tmp_path / f"books.{suffix}", members, mode)
        problems = ReadErrors()
        assert content_of(path, problems) == [(f"{path}:x/b.txt", b"Second"), (f"{path}:x/a.txt", b"First")]
        assert problems.left_out == {".png files": 1} and not problems.skipped
        assert line_pieces(path, 1) == whole(path)


def test_an_archive_writes_nothing_and_follows_no_links(tmp_path: Path) -> None:
    members = {"../outside.txt": b"up", f"{tmp_path}/absolute.txt": b"a root", "inside.txt": b"good"}
    pack(tmp_path / "evil.tar.gz", members, "w:gz")
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    assert content_of(tmp_path / "evil.tar.gz", ReadErrors())[-1][1] == b"good"
    assert content_of(tmp_path / "links.tar", ReadErrors()) == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("keep", [0, 100, 512, 5000, 512 * 11 + 100, 512 * 12, 20_000])
def test_an_archive_that_was_cut_off_is_reported_and_what_came_before_kept(tmp_path: Path, keep: int) -> None:
    path = pack(tmp_path / "cut.tar", {f"{n}.txt": b"%d" % n * 5000 for n in range(9)}, "w")
    path.write_bytes(path.read_bytes()[:keep])
    problems = ReadErrors(skip=True)
    found = [
        (where, list(Lines(file, where, problems))) for where, _, file in files_in(Piece(path, 0), TEXTS, problems)
    ]
    complete = keep // (512 + 5120)
    assert found[:complete] == [(f"{path}:{n}.txt", [f"{n}" * 5000]) for n in range(complete)]
    assert problems.skipped and all(line.startswith(str(path)) for line in problems.skipped)


def test_names(tmp_path: Path) -> None:
    assert [kind(name) for name in ("a.TXT", "a.txt.gz", "a.tar.zst", "a.gz", "wiki_00")] == [
        ".txt", ".txt", ".tar", "", ""
    ]  # fmt: skip
    assert [stem(name) for name in ("A.b.txt", "A.txt.gz", "A", "A\udcff.txt")] == ["A.b", "A", "A", "A?"]


@pytest.mark.parametrize("source", [tables, wikipedia])
def test_what_has_to_seek_does_not_read_standard_input(source: ModuleType) -> None:
    with pytest.raises(UsageError, match="cannot be read from standard input; name a file"):
        source.pieces(STDIN)
