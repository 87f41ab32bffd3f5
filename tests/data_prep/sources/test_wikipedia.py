"""Dumps to articles: every page counted once however the dump is cut, damage reported with its place."""

import bz2
import gzip
import lzma
import re
from collections import Counter
from collections.abc import Callable
from html import escape
from pathlib import Path

import pytest

from data_prep.corpus import Document
from data_prep.sources import ReadErrors, dump, wikipedia
from linformer_fairseq.errors import UsageError

HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">\n<siteinfo><namespaces>'
    '<namespace key="0" /><namespace key="6">Kuva</namespace></namespaces></siteinfo>\n'
)
TAIL = "</mediawiki>\n"


def page(number: int, text: str, ns: int = 0, extra: str = "", title: str = "") -> str:
    return (
        f"  <page>\n<title>{title or f'Title {number}'}</title><ns>{ns}</ns><id>{number}</id>{extra}"
        f"<revision><model>wikitext</model><text>{escape(text)}</text></revision>\n  </page>\n"
    )


def read(path: Path, skip: bool = False, size: int | None = None) -> tuple[list[Document], list[str], Counter[str]]:
    problems = ReadErrors(skip)
    found = [d for piece in wikipedia.pieces(path, size) for d in wikipedia.documents(piece, problems)]
    return found, problems.skipped, problems.left_out


def ids(found: list[Document]) -> list[int]:
    return [int(d.id) for d in found]


PAGES = [page(n, f"Article {n} [[Kuva:x.jpg]] " + f"wörd {n} " * (n % 7 * 20)) for n in range(1, 41)]
DUMP = (HEAD + "".join(PAGES) + TAIL).encode()


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_text(
        HEAD
        + page(1, "An '''article''' [[Kuva:x.jpg|thumb]]{{disambiguation needed}}")
        + page(2, "#REDIRECT [[x]]", extra='<redirect title="x" />')
        + page(3, "talk", ns=1)
        + page(4, "A may be:\n* b\n{{Disambig|geo}}", title="A &amp; B")
        + page(5, "C", title="C (disambiguation)")
        + page(6, "{{x}}")
        + page(7, "{}").replace("wikitext", "json")
        + TAIL
    )
    found, _, counts = read(tmp_path / "d.xml")
    assert [(d.id, d.source, d.title, d.text) for d in found] == [("1", "wikipedia", "Title 1", "An article")]
    reasons = {"redirect": 1, "other namespace": 1, "disambiguation": 2, "empty": 1, "not wikitext": 1}
    assert counts == reasons


def test_redirects_and_names_of_files_need_no_element_and_no_namespace(tmp_path: Path) -> None:
    russian = HEAD.replace('"en"', '"ru"') + page(1, "Река {{s|12 км}}.[[Изображение:R.jpg|thumb|Вид]]")
    (tmp_path / "ru.xml").write_text(russian + page(2, "#перенаправление [[Река]]") + TAIL)
    found, _, counts = read(tmp_path / "ru.xml")
    assert [d.text for d in found] == ["Река 12 км."] and counts == {"redirect": 1}
    chinese = HEAD.replace('"en"', '"zh"') + page(
        1, "-{H|zh-hans:软件}-城市[[文件:C.jpg|缩略图|照片]][[圖像:D.jpg]]。\n[[分類:城市]]"
    )
    (tmp_path / "zh.xml").write_text(chinese + page(2, "#重定向 [[城市]]") + TAIL)
    found, _, counts = read(tmp_path / "zh.xml")
    assert [d.text for d in found] == ["城市。"] and counts == {"redirect": 1}


@pytest.mark.parametrize("pack", [bytes, bz2.compress, gzip.compress, lzma.compress])
def test_every_packing_gives_the_same(tmp_path: Path, pack: object) -> None:
    (tmp_path / "d").write_bytes(pack(DUMP))  # type: ignore[operator]
    assert ids(read(tmp_path / "d", size=10**6)[0]) == list(range(1, 41))


@pytest.mark.parametrize("cut", [7, 97, 1000])
def test_every_page_is_in_exactly_one_piece(tmp_path: Path, cut: int) -> None:
    """Streams that end between pages, as Wikipedia's do, or anywhere, as pbzip2's do; pieces of any size."""
    aligned = [HEAD, *("".join(PAGES[n : n + 3]) for n in range(0, 40, 3)), TAIL]
    anywhere = [DUMP[n : n + cut] for n in range(0, len(DUMP), cut)]
    for name, parts in (("aligned", [part.encode() for part in aligned]), ("anywhere", anywhere)):
        path = tmp_path / f"{name}.bz2"
        path.write_bytes(b"".join(map(bz2.compress, parts)))
        whole = read(path, size=10**9)[0]
        for size in (50, 333, 2000) if cut > 7 else (2000,):
            assert len(wikipedia.pieces(path, size)) > 1
            assert read(path, size=size)[0] == whole
        assert ids(whole) == list(range(1, 41))
    (tmp_path / "d.xml").write_bytes(DUMP)
    assert read(tmp_path / "d.xml", size=cut * 5)[0] == whole


BROKEN = {
    "empty": (b"", "the file is empty", []),
    "other": (b"hello " * 9, "not a MediaWiki XML dump", []),
    "doctype": (DUMP.replace(b"<mediawiki", b'<!DOCTYPE a [<!ENTITY b "cc">]><mediawiki', 1), "declares a DOCTYPE", []),
    "entity": (DUMP.replace(b"Article 7 ", b"&lol;"), "page 'Title 7' at unpacked byte", [7]),
    "utf8": (DUMP.replace(b"Article 7 ", b"\xff\xfe"), "is not UTF-8", [7]),
    "nul": (DUMP.replace(b"Article 7 ", b"a\0b"), "is NUL", [7]),
    "xml": (DUMP.replace(b"Article 7 ", b"<b>"), "broken XML (mismatched tag", [7]),
    "unclosed": (DUMP.replace(b"</page>", b"</pag>", 1), "page 'Title 1' at unpacked byte", [1]),
    "garbage": (DUMP.replace(b"</page>\n", b"</page>\nlost text", 1), "bytes that are no page", []),
    "no id": (DUMP.replace(b"<id>7</id>", b""), "no <title> or no <id>", [7]),
    "cut": (DUMP[:-100], "page 'Title 40' at unpacked byte", [40]),
    "cut between": (DUMP[: -len(TAIL)], "ends without </mediawiki>", []),
    "gz": (gzip.compress(DUMP)[:-300], "cut off or damaged", None),
    "xz": (lzma.compress(DUMP)[:-300], "cut off or damaged", None),
    "bz2": (bz2.compress(DUMP)[:-20], "bzip2 stream at byte 0: the .bz2 is cut off", None),
    "trailer": (bz2.compress(DUMP) + b"trailing bytes", "not a bzip2 stream", []),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_input_says_where_and_costs_only_itself(tmp_path: Path, name: str) -> None:
    content, message, lost = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        read(path)
    assert str(path) in str(error.value)
    found, skipped, _ = read(path, skip=True)
    assert skipped
    if name in ("empty", "other", "doctype"):
        assert not found and len(skipped) == 1
    elif lost is not None:
        assert sorted(set(range(1, 41)) - set(ids(found))) == lost
        assert len(skipped) == 1


@pytest.mark.parametrize("size", [10**9, 400])
def test_a_damaged_stream_costs_only_its_pages(tmp_path: Path, size: int) -> None:
    streams = [bz2.compress(part.encode()) for part in (HEAD, *PAGES, TAIL)]
    streams[7] = streams[7][:40] + b"\0\0\0\0" + streams[7][44:]
    (tmp_path / "d.bz2").write_bytes(b"".join(streams))
    found, skipped, _ = read(tmp_path / "d.bz2", skip=True, size=size)
    assert set(range(1, 41)) - set(ids(found)) == {7}
    assert len(skipped) == 1 and f"stream at byte {sum(map(len, streams[:7]))}" in skipped[0]


def test_a_page_that_is_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "PAGE_BYTES", 2_000_000)
    long = page(50, "word " * 1_000_000)
    (tmp_path / "d.gz").write_bytes(gzip.compress((HEAD + PAGES[0] + long + PAGES[1] + TAIL).encode()))
    found, skipped, _ = read(tmp_path / "d.gz", skip=True)
    assert ids(found) == [1, 2]
    assert len(skipped) == 1 and "page 'Title 50'" in skipped[0] and "longer than" in skipped[0]


@pytest.mark.parametrize(
    ("name", "disambiguations"),
    [
        ("enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2", 8),
        ("enwiki-table-markup.xml.bz2", 0),
        ("camchenry-simplewiki.xml.bz2", 0),
        ("enwiki-pages-articles-sample.xml.bz2", 0),
    ],
)
def test_real_dumps(name: str, disambiguations: int, shared_data: Callable[[str], Path]) -> None:
    path = shared_data(f"wiki/{name}")
    xml = bz2.decompress(path.read_bytes()).decode()
    pages = re.findall(r"<page>.*?</page>", xml, re.S)
    articles = [p for p in pages if "<ns>0</ns>" in p and "<redirect" not in p]
    found, _, counts = read(path)
    assert counts["disambiguation"] == disambiguations
    assert len(found) == len(articles) - disambiguations
    assert sum(counts.values()) == len(pages) - len(found) and counts["empty"] == 0
    markup = re.compile(r"\{\{|\}\}|\[\[|\]\]|<ref|\|-|\{\||thumb\||''|\( ?[,;)]|__NOTOC__|<(?:br|small|sub)\b")
    assert not [d.title for d in found if markup.search(d.text)]
