"""Markup in, prose out: construct by construct, on hostile input, and on any input."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpus import tidy
from data_prep.sources.wikitext import dropped_namespaces, prose

MARKERS = ("{{", "}}", "[[", "]]", "<ref", "|-", "{|")


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("l'''eau'' claire", "l'eau claire"),
        ("a [[cat]], [[dog|dogs]], [[cat]]s and [[#Part|part]]", "a cat, dogs, cats and part"),
        ("[[:Category:Cats]] are [[Help:Link|linked]]", "Category:Cats are linked"),
        ("x [[File:a.jpg|thumb|200px|the [[cat|c]] [http://a.b c]]] y", "x y"),
        ("x\n[[Category:A]]\n[[fr:Chat]]", "x"),
        ("x [http://a.b label], [http://a.b]", "x label,"),
        ("x<ref>a [[b]]</ref><ref name=a /> y<!-- no\n\nno --> z", "x y z"),
        ("x <ref>open\n\ny<ref>closed</ref> z", "x\ny z"),
        ("{{Infobox\n|a={{b|\n{|\n|-\n|x\n|}\n}}\n|}}\nText", "Text"),
        ("{|\n|-\n| a\n{|\n| inner\n|}\n|}\nText", "Text"),
        ("{| never closed\n| a\n\n== H ==\nText", "H\nText"),
        ("{{never closed\n\nText [[a|b", "Text b"),
        ("Paris ({{IPA|x}}; {{respell|y}}) and A ({{IPA|x}}, born 1)", "Paris and A (born 1)"),
        ("{{convert|5|km|mi}}, {{convert|5|to|9|km}}, {{convert|6|ft|2|in|m}}", "5 km, 5 to 9 km, 6 ft 2 in"),
        (
            "{{lang|fr|mot}} {{lang-de|Wort}} {{nowrap|a b}} 1{{ndash}}2 {{as of|2012|lc=y}}",
            "mot Wort a b 1–2 As of 2012",
        ),
        ("== A ==\n=== B ===\n{{x}}\n== C ==\n* one\n*\n# two", "C\none\ntwo"),
        ("a <math>x^2</math> b<sub>2</sub><br/>c <span style='x'>d</span>", "a b2 c d"),
        ("<gallery>\nFile:a.jpg|b\n</gallery>\n<syntaxhighlight lang=c>x</syntaxhighlight>__NOTOC__", ""),
        ("__init__ and __TOC__", "__init__ and"),
        ("a &amp; b&nbsp;c &lt;i&gt;", "a & b c <i>"),
        ("<nowiki>[[a]]</nowiki> &#123;&#123;b", "[ [a] ] { {b"),
        ("1 < b and c > d", "1 < b and c > d"),
        ("-{zh-hans:中国;zh-hant:中國}-", "中国"),
        ("----\n|x\n: indented", "indented"),
    ],
)
def test_constructs(markup: str, expected: str) -> None:
    assert prose(markup) == expected


def test_names_of_namespaces_come_from_the_dump() -> None:
    dropped = dropped_namespaces({6: "Tiedosto", 14: "Luokka", 0: ""})
    assert prose("a [[Tiedosto:a.jpg|thumb|b]][[luokka:C]]", dropped) == "a"
    assert prose("a [[Luokka:C]]") == "a Luokka:C"


HOSTILE = {
    "templates": "{{a|" * 50_000,
    "nested": "{{a|" * 50_000 + "}}" * 50_000,
    "links": "[[a|" * 50_000 + "x" + "]]" * 50_000,
    "references": "<ref>" * 50_000 + "</ref>",
    "comments": "<!-- " * 50_000,
    "formulas": "<math>" * 50_000,
    "tables": "\n{|" * 50_000,
    "commas": ", " * 50_000 + "x",
    "heading": "= " + " " * 200_000 + "x",
    "number": "{{convert|" + "1" * 200_000 + "x}}",
    "kept": "{{nowrap|" * 60 + "x" * 50_000 + "}}" * 60,
    "brackets": "(," * 50_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_markup_ends_and_leaves_no_marks(name: str) -> None:
    # Quadratic time on these would be minutes, and recursion would fail.
    assert not [marker for marker in MARKERS if marker in prose(HOSTILE[name])]


PARTS = [
    "{{",
    "}}",
    "[[",
    "]]",
    "{|",
    "|}",
    "|-",
    "|",
    "\n",
    "=",
    "==",
    "''",
    "'''",
    "<ref>",
    "</ref>",
    "<ref name=a/>",
]
PARTS += ["<!--", "-->", "<nowiki>", "</nowiki>", "<b>", "&lt;", "&#91;", "&#123;", "[", "]", "{", "}", "<", "ref", "-"]
PARTS += [
    "File:",
    "lang|fr|",
    "nowrap|",
    "convert|",
    "5",
    "*",
    ":",
    "(",
    ",",
    ")",
    "a",
    "é",
    " ",
    "-{",
    "}-",
    "__",
    "http://",
]


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(PARTS), max_size=40).map("".join), st.text(max_size=60)))
def test_any_markup_becomes_paragraphs_without_marks(markup: str) -> None:
    text = prose(markup)
    assert not [marker for marker in MARKERS if marker in text]
    assert tidy(text.splitlines()) == text
    assert prose(markup) == text
