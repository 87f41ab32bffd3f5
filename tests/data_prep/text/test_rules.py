"""Each rule drops what it is for, and none drops ordinary text in any script."""

from __future__ import annotations

import dataclasses

import pytest

from data_prep.text.normalize import LineRules
from data_prep.text.rules import CleanConfig, clean

ENGLISH = (
    "The river rises in the hills above the town and turns east towards the sea. Its upper valley is steep and "
    "wooded; farther down, meadows take the place of trees.\nBarges carried stone to the coast until a railway "
    "came in 1871, and a lock from that time still stands beside the mill."
)
CHINESE = (
    "黄河是中国第二长河，发源于青藏高原，流经九个省区，最后注入渤海。它的中游穿过黄土高原，带走大量泥沙，"
    "因此河水呈黄色。下游河床高出两岸地面，成为有名的地上河。历史上它多次改道，给沿岸居民带来灾害，"
    "也留下肥沃的平原。今天人们在上游修建水库，用来发电、灌溉和防洪，并在两岸种树，减少水土流失。"
)
JAPANESE = (
    "富士山は日本で最も高い山で、静岡県と山梨県にまたがっている。その優美な姿は古くから絵画や和歌の題材となり、"
    "多くの登山者が夏に頂上を目指す。山頂からは晴れた日に遠くの海まで見渡すことができる。"
    "周囲には五つの湖があり、季節ごとに異なる景色を楽しめる。"
)
THAI = (
    "กรุงเทพมหานครเป็นเมืองหลวงและเมืองใหญ่ที่สุดของประเทศไทย ตั้งอยู่บนที่ราบลุ่มแม่น้ำเจ้าพระยา"
    "มีประชากรหลายล้านคน และเป็นศูนย์กลางการปกครอง การศึกษา การคมนาคม และการค้าของประเทศ"
)
VIETNAMESE = (
    "Sông Hồng là con sông lớn ở miền Bắc, bắt nguồn từ núi cao rồi chảy qua nhiều tỉnh trước khi đổ ra biển. "
    "Nước sông có màu đỏ vì mang nhiều phù sa, nhờ đó đồng bằng quanh sông rất màu mỡ."
)
FINNISH = (
    "Kansaneläkelaitoksen kuntoutuspsykoterapiapäätökset lähetetään asiakkaille kirjeitse, minkä jälkeen "
    "muutoksenhakulautakunta käsittelee mahdolliset valitukset. Terveydenhuoltojärjestelmän kokonaisuudistuksesta "
    "keskusteltiin eduskunnassa pitkään ennen lainvalmistelun aloittamista maakunnissa ja kunnissa myöhemmin."
)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, JAPANESE, THAI, VIETNAMESE, FINNISH])
def test_ordinary_text_stays(text: str) -> None:
    result = clean(text, CleanConfig())
    assert (result.text, result.dropped, dict(result.removed)) == (text, None, {})


LIST = "\n".join(f"{i}-{i + 1} - winners Tramore and runners up Bluebell United of Dublin" for i in range(30))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "too few characters"),
        ("Short.", "too few characters"),
        ("Incomprehensibilities " * 8, "too few words"),
        ("a b c d e f g h i j " * 12, "word length"),
        ("https://example.org/a/very/long/address " * 25, "word length"),
        ("#tag and #tag or #tag more " * 10, "symbols"),
        ("\n".join(f"- item {i} of the list is here" for i in range(9)), "bullet lines"),
        (
            "\n".join(
                f"Teaser number {'abcdefghi'[i]} of a long story that goes on for many pages, so now read on ..."
                for i in range(9)
            ),
            "ellipsis lines",
        ),
        (ENGLISH + "\nShare this page" * 9, "repeated lines"),
        ("1871 2,345 17:30 -- 99.5 % total " * 6, "few words with letters"),
        (LIST, "repeated n-grams"),
        (" ".join(f"the good dog w{i} x{i + 7}" for i in range(60)), "one n-gram again and again"),
    ],
)
def test_reasons(text: str, reason: str) -> None:
    assert clean(text, CleanConfig()).dropped == reason


def test_repetition_is_seen_without_spaces_too() -> None:
    assert clean("点击这里下载最新版本的手机应用程序。" * 12, CleanConfig()).dropped == "repeated n-grams"


def test_rules_can_be_switched_off() -> None:
    off = dataclasses.replace(CleanConfig(), max_repeated_ngrams=(), max_top_ngrams=())
    assert clean(LIST, off).dropped is None


def test_length_alone_drops_nothing() -> None:
    text = "\n".join(" ".join(f"w{i}x{j}" for j in range(100)) for i in range(3000))
    assert clean(text, CleanConfig()).dropped is None


def test_rules_for_english_and_for_the_web_are_off_unless_asked_for() -> None:
    page = ENGLISH + "\nPlease enable JavaScript to see this page.\nWe use cookies, see our privacy policy.\nHome"
    assert clean(page, CleanConfig()).text == page
    web = CleanConfig(lines=LineRules(web=True, sentences=True), english_stop_words=2, web_pages=True)
    result = clean(page, web)
    assert (result.text, result.dropped) == (ENGLISH, None)
    assert result.removed == {"boilerplate": 2, "no sentence": 1}
    assert clean(FINNISH, web).dropped == "few English stop words"
    assert clean(ENGLISH + " In C one writes { and }.", web).dropped == "code or filler"


def test_boilerplate_is_removed_and_counted() -> None:
    config = CleanConfig(lines=LineRules(boilerplate=(r"<br>", r"See also\.?")))
    result = clean(f"<br>\n{ENGLISH}\nsee also.\nSee also the mill.\n<br>", config)
    assert result.text == f"{ENGLISH}\nSee also the mill."
    assert result.removed == {"boilerplate": 3}


def test_project_gutenberg_goes() -> None:
    book = (
        "The Project Gutenberg EBook of Rivers, by A. Writer\nThis eBook is for the use of anyone anywhere\n"
        "*** START OF THIS PROJECT GUTENBERG EBOOK RIVERS ***\nProduced by Volunteers\n"
        f"{ENGLISH}\nEnd of Project Gutenberg's Rivers, by A. Writer\n"
        "*** END OF THIS PROJECT GUTENBERG EBOOK RIVERS ***\nLicense text"
    )
    result = clean(book, CleanConfig())
    assert result.text == ENGLISH
    assert result.removed == {"Project Gutenberg": 7}
