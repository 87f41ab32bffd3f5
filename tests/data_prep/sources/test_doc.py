"""wikiextractor's files become articles."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.sources import ReadErrors, doc
from linformer_fairseq.errors import UsageError

ARTICLES = """<doc id="12" url="https://example.org/?curid=12" title="Bits &amp; &quot;bytes&quot;">
Bits & "bytes"

A   first paragraph.
</doc>

<doc id="13" revid="99" url="https://example.org/?curid=13" title="Empty">
</doc>
"""
EXPECTED = [("12", 'Bits & "bytes"', 'Bits & "bytes"\nA first paragraph.'), ("13", "Empty", "")]

CUT = [(*EXPECTED[0][:2], 'Bits & "bytes"\nA first p')]


def read(path: Path, problems: ReadErrors) -> list[tuple[str, str, str]]:
    """(id, title, text) of all articles."""
    return [(d.id, d.title, d.text) for piece in doc.pieces(path) for d in doc.documents(piece, problems)]


def test_articles(tmp_path: Path) -> None:
    plain, packed, archive = tmp_path / "wiki_00", tmp_path / "wiki_00.gz", tmp_path / "wiki.tar.xz"
    plain.write_text(ARTICLES)
    packed.write_bytes(gzip.compress(ARTICLES.replace("\n", "\r\n").encode()))
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(plain)
        tar.add(packed)
    assert read(plain, ReadErrors()) == read(packed, ReadErrors()) == EXPECTED
    assert read(archive, ReadErrors()) == EXPECTED * 2
    plain.write_text(ARTICLES.replace("first paragraph", "R&amp;D &lt;b&gt; &amp;lt; &copy; paragraph"))
    assert read(plain, ReadErrors())[0][2].endswith("A R&D <b> &lt; &copy; paragraph.")


@pytest.mark.parametrize(
    ("content", "message", "kept"),
    [
        ("Text.\n" + ARTICLES, "line 1 (byte 0): expected a <doc …> line, found 'Text.'", EXPECTED),
        (ARTICLES[:ARTICLES.index("aragraph")], "line 4 (byte 103): article 12 has no </doc> line", CUT),
        (ARTICLES.replace("</doc>", "", 1), "line 7 (byte 126): article 12 has no </doc> before the next", EXPECTED),
    ],
)  # fmt: skip
def test_wrong_articles_are_named(tmp_path: Path, content: str, message: str, kept: list[tuple[str, str, str]]) -> None:
    path = tmp_path / "wiki_00"
    path.write_text(content)
    with pytest.raises(UsageError) as error:
        read(path, ReadErrors())
    assert f"wiki_00: {message}" in str(error.value)
    problems = ReadErrors(skip=True)
    assert read(path, problems) == kept
    assert len(problems.skipped) == 1


def test_an_article_without_end_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doc, "LARGEST_DOCUMENT", 1000)
    path = tmp_path / "wiki_00"
    path.write_text(ARTICLES.replace("A   first", "A long\n" * 1000 + "last"))
    problems = ReadErrors(skip=True)
    first, second = read(path, problems)
    assert len(first[2]) < 1100 and second == EXPECTED[1]
    assert len(problems.skipped) == 1 and "article 12 is longer than" in problems.skipped[0]


def test_the_articles_of_a_real_archive(shared_data: Callable[[str], Path]) -> None:
    found = read(shared_data("text/wikipedia-2014.tar.xz"), ReadErrors())
    assert len(found) == 27_835 and all(text for _, _, text in found)
