"""A page shows what it is given as text, in a browser, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from linformer_fairseq import errors
from linformer_fairseq.io.page import Page

ATTACKS = [
    "<script>document.body.dataset.attacked = 1</script>",
    "</script><script>document.body.dataset.attacked = 2</script>",
    '<img src="x" onerror="document.body.dataset.attacked = 3">',
    "<!--<script>",
    "<b>&lt;</b> \ud800 {{content}} {{library}}",
]


def page_of(texts: list[str], path: Path) -> Path:
    """A page with every text in every place that may come from data."""
    pytest.importorskip("plotly", reason="pages need the extra report: pip install -e '.[report]'")
    page = Page(" ".join(texts), path)
    page.section(texts[0], " ".join(texts))
    page.table(texts, [texts, [1234, 0.5, None, -1, 2.0]], fold=texts[1])
    page.texts(texts[0], texts[1], {text: [(text, True), (text, False)] for text in texts})
    bars = {"type": "bar", "name": texts[2], "x": texts, "y": [1, 2, 3, 4, 5]}
    page.plot(texts[3], {text: [bars] for text in texts}, yaxis={"title": texts[0]})
    page.write()
    return path


def test_text_of_a_page_stays_text(tmp_path: Path, open_page: Callable[[str], Any]) -> None:
    browser = open_page(page_of(ATTACKS, tmp_path / "page.html").as_uri())
    assert browser.execute_script("return document.body.dataset.attacked") is None
    assert browser.execute_script("return document.body.dataset.ready") == "yes"
    assert browser.execute_script("return document.images.length") == 0
    cells = browser.execute_script("return [...document.querySelectorAll('td')].map(e => e.textContent.toWellFormed())")
    assert cells[:4] == ATTACKS[:4] and cells[5:] == ["1,234", "0.5", "–", "-1", "2"]
    ticks = browser.execute_script(
        "return [...document.querySelectorAll('.xtick text')].map(e => e.textContent.toWellFormed())"
    )
    assert ticks[0] == ATTACKS[0]


def test_what_is_searched_for_stays_and_the_rest_is_hidden(tmp_path: Path, open_page: Callable[[str], Any]) -> None:
    pytest.importorskip("plotly", reason="pages need the extra report: pip install -e '.[report]'")
    page = Page("search", tmp_path / "page.html")
    page.section("one")
    page.table(["name"], [["Apple"], ["pear"]], fold="folded")
    page.texts("title", "", {"label": "an apple"})
    page.write()
    browser = open_page((tmp_path / "page.html").as_uri())
    browser.find_element("tag name", "input").send_keys("APPLE")
    shown = "return [...document.querySelectorAll('.item')].filter(e => e.offsetParent).map(e => e.textContent)"
    assert browser.execute_script(shown) == ["Apple", "title labelan apple"]
    assert browser.find_element("tag name", "output").text == "2 of 3"


def test_colours_are_those_that_the_reader_prefers(
    tmp_path: Path, open_page: Callable[[str], Any], browser: Any
) -> None:
    open_page(page_of(ATTACKS, tmp_path / "page.html").as_uri())
    for scheme, ink in (("dark", "#ddd"), ("light", "#222")):
        preferred = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", preferred)
        # The page hears of the change before it draws the next frame.
        colour = "done(document.querySelector('.js-plotly-plot').layout.font.color)"
        next_frame = f"const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => {colour}))"
        assert browser.execute_async_script(next_frame) == ink


def test_a_page_is_no_folder(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="pages need the extra report: pip install -e '.[report]'")
    with pytest.raises(errors.UsageError, match="is a folder; give the page another name"):
        Page("title", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(errors.UsageError, match="cannot be a folder"):
        Page("title", tmp_path / "file/page.html")


def test_the_missing_library_is_named() -> None:
    sentence = errors._sentence(ModuleNotFoundError("No module named 'plotly'", name="plotly"))
    assert sentence is not None and "pip install -e '.[report]'" in sentence
