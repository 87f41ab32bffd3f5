"""Markup in, prose out: construct by construct, on hostile input, and on any input."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpus import tidy
from data_prep.sources.mediawiki import redirect, wiki
from data_prep.sources.wikitext import Page, prose

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
        (
            "{{langx|el|οἶκος|oîkos|lit=house}} {{chem2|CO2}} {{gaps|12|000}} {{USS|Ohio|BB-12}} {{HMS|Hood}}",
            "οἶκος CO2 12000 USS Ohio HMS Hood",
        ),
        ("== A ==\n=== B ===\n{{x}}\n== C ==\n* one\n*\n# two", "C\none\ntwo"),
        ("a <math>x^2</math> b<sub>2</sub><br/>c <span style='x'>d</span>", "a [formula] b2 c d"),
        ("<gallery>\nFile:a.jpg|b\n</gallery>\n<syntaxhighlight lang=c>x</syntaxhighlight>__NOTOC__", ""),
        ("__init__ and __TOC__", "__init__ and"),
        ("a &amp; b&nbsp;c &lt;i&gt;", "a & b c <i>"),
        ("<nowiki>[[a]]</nowiki> &#123;&#123;b", "[ [a] ] { {b"),
        ("1 < b and c > d", "1 < b and c > d"),
        ("-{zh-hans:中国;zh-hant:中國}-", "中国"),
        ("x-{H|zh-hans:软件;zh-hant:軟體}--{T|zh:名}-", "x"),
        ("-{zh-hans;zh-hant|简体}- -{R|a:b}- -{原}-", "简体 a:b 原"),
        ("-{H|zh-cn:甲;\nzh-tw:乙;}-\n-{zh-cn:外-{zh-hans:内;zh-hant:內}-面;zh-tw:外}-", "外内面"),
        ("-{zh-hans:甲;zh-hant:{{lang|ja|乙}}}- -{{{lang|ja|丙}}}- -{zh-cn:A&nbsp;B;\n zh-tw:C}-", "甲 丙 A B"),
        ("<ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp></ruby>字", "漢字"),
        ("x [https://a.b see [1] there] y, {{math|''n'' > 0}}", "x see [1] there y, n > 0"),
        ("x __БЕЗ_ОГЛАВЛЕНИЯ__ __目次非表示__ __لافهرس__ __some_name__", "x __some_name__"),
        ("costs {{USD|100}} or {{€|5}}, {{val|3|ul=m/s}}, {{hlist|a|b}}", "costs US$100 or €5, 3 m/s, a, b"),
        ("[[Мультимедиа:x.ogg|x]] [[Unknown:A b.JPG|thumb|a]] y", "y"),
        ("so\n: <math>E = mc^2</math>,\nwhere <math>m</math>", "so [formula],\nwhere [formula]"),
        ("a\n== B ==\n<math>x</math>\nc", "a\nB\nc"),
        ("----\n|x\n: indented", "indented"),
    ],
)
def test_constructs(markup: str, expected: str) -> None:
    assert prose(markup) == expected


def test_names_of_namespaces_come_from_the_dump() -> None:
    page = Page(wiki("xx", {6: "Kuvajainen", 14: "Laji", 0: ""}))
    assert prose("a [[Kuvajainen:a|thumb|b]][[laji:C]]", page) == "a"
    assert prose("a [[Laji:C]]") == "a Laji:C"


def test_a_formula_is_a_placeholder_its_source_or_nothing() -> None:
    text = "Here <math>a_{{1}}\n < [[b]]</math> is <ce>H2O</ce>."
    found = {math: prose(text, Page(wiki("en"), math=math)) for math in ("placeholder", "text", "drop")}
    assert found["placeholder"] == "Here [formula] is [formula]."
    assert found["text"] == "Here a_{ {1}} < [ [b] ] is H2O.".replace("1}}", "1} }")
    assert found["drop"] == "Here is."


@pytest.mark.parametrize(
    ("language", "markup", "expected"),
    [
        ("ru", "{{s|12 км}} {{w|Река|реки}} {{нп5|Имя|имени|en|Name}}", "12 км реки имени"),
        ("fr", "{{s|XIX}} {{w|a|b}}", "XIXe siècle"),
        ("en", "{{s|XIX}} {{w|a|b}} {{w|c}}", "b c"),
        ("de", "{{s|XIX}} {{w|a|b}} x", "x"),
        ("", "{{s|XIX}} {{w|a|b}} x", "x"),
        ("zh", "{{le|城市|City}} {{PAGENAME}}", "城市 T"),
        ("zh", "{{tsl|en|City|城市}} {{link-it|甲|A}} {{le|甲|A|乙}}", "城市 甲 乙"),
        ("de", '{{LaS|urbs}} {{"|Wort}}', "urbs Wort"),
        ("fr", "{{XIXe siècle}} 2{{e}} {{M.}} X {{refnec|a}} {{LaS|urbs}}", "XIXe siècle 2e M. X a"),
        ("fr", "{{M.|X}}, {{Mme|Y}}, {{n°|5}}, {{n°}}6, {{nb|3000|km}}", "M. X, Mme Y, n° 5, n°6, 3000 km"),
        ("es", "{{Siglo|XV||s}} {{versalita|Roma}} {{esd|12 km}}", "siglo XV Roma 12 km"),
        ("pt", "{{fmtn|12000|km}}", "12000 km"),
        ("it", "{{M|5|ul=km}} {{citazione necessaria|testo|data=x}}", "5 km testo"),
        ("ru", "{{нобр|а б}} {{num|1000}}", "а б 1000"),
        ("ja", "{{JIS2004フォント|葛}}飾区", "葛飾区"),
        ("pl", "{{NAZWASTRONY}} {{FORMATNUM:1234}}", "T 1234"),
    ],
)
def test_a_template_means_what_it_means_on_its_wiki(language: str, markup: str, expected: str) -> None:
    assert prose(markup, Page(wiki(language), "T")) == expected


# The namespaces of files and categories as people of each language have typed them, and the word for a redirect.
TYPED = """ru Изображение Файл Категория #ПЕРЕНАПРАВЛЕНИЕ|uk Зображення Файл Категорія #ПЕРЕНАПРАВЛЕННЯ
de Bild Datei Kategorie #WEITERLEITUNG|fr Image Fichier Catégorie #REDIRECTION|es Imagen Archivo Categoría #REDIRECCIÓN
pt Imagem Ficheiro Categoria #REDIRECIONAMENTO|it Immagine File Categoria #RINVIA|pl Grafika Plik Kategoria #PATRZ
ja 画像 ファイル カテゴリ #転送|zh 圖像 文件 分類 #重定向|ko 그림 파일 분류 #넘겨주기|ar صورة ملف تصنيف #تحويل
fa تصویر پرونده رده #تغییر_مسیر|he תמונה קובץ קטגוריה #הפניה|tr Resim Dosya Kategori #YÖNLENDİRME
vi Hình Tập_tin Thể_loại #đổi|cs Soubor Soubor Kategorie #PŘESMĚRUJ|hu Kép Fájl Kategória #ÁTIRÁNYÍTÁS
el Εικόνα Αρχείο Κατηγορία #ΑΝΑΚΑΤΕΥΘΥΝΣΗ|sv Bild Fil Kategori #OMDIRIGERING
nl Afbeelding Bestand Categorie #DOORVERWIJZING
sr Слика Датотека Категорија #Преусмери|hi चित्र चित्र श्रेणी #पुनर्प्रेषित|bn চিত্র চিত্র বিষয়শ্রেণী #পুনর্নির্দেশ"""


@pytest.mark.parametrize("row", [row for line in TYPED.splitlines() for row in line.split("|")])
def test_nothing_leaks_in_any_language(row: str) -> None:
    language, image, file, category, word = row.split(" ")
    page = Page(wiki(language))  # a dump that does not name its namespaces
    for marks in ("thumb|200px|right|x [[y]]", "мини|z", "20px"):
        text = f"A [[{image}:B c.jpg|{marks}]] [[{file.lower()}:b|{marks}]]d.\n[[{category}:E|f]]"
        assert prose(text, page) == "A d."
    assert redirect().match(f"{word} [[x]]") and redirect().match(f" {word.replace('İ', 'i').lower()}: [[x]]")
    assert not redirect().match(f"# {word[1:]} [[x]]") and not redirect().match("#[[x]]")


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
    "switches": "_" * 200_000 + "x",
    "variants": "-{a|" * 50_000,
    "variants in variants": "-{zh:a;" * 50_000 + "}-" * 50_000,
    "address": "[http://" + "a" * 200_000,
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
