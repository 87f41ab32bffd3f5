"""How much a text says is alike in all scripts; sentences and graphemes end where readers see it."""

from __future__ import annotations

import pytest

from data_prep.text.scripts import Size, ends_sentence, graphemes, measure, sentence_ends


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two words", Size(9, 2, 4.0, 1)),
        ("Zwei Wörter – hier", Size(18, 4, 3.75, 1)),
        ("河水流动", Size(12, 4, 0.0, 2)),
        ("用PyTorch和CUDA，", Size(18, 4, 5.5, 1)),
        ("これはペンです", Size(21, 7, 0.0, 3)),
        ("แม่น้ำสายนี้", Size(12, 3, 0.0, 6)),
        ("ሰው፡ልጅ ሁሉ", Size(14, 3, 2.0, 1)),
        ("བོད་ཡིག", Size(7, 2, 3.0, 1)),
        ("모든 인간", Size(9, 2, 2.0, 1)),
        ("ᐊᑐᖅᑕᐅᕙᒃᑐᖅ", Size(18, 2, 9.0, 1)),
        ("a" * 80, Size(80, 10, 80.0, 1)),
    ],
)
def test_measure(text: str, expected: Size) -> None:
    assert measure(text) == expected


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! 3.14 is pi? “Yes.” So…", ["One.", " Two!", " 3.14 is pi?", " “Yes.”", " So…"]),
        ("好。”他说。走吧！", ["好。”", "他说。", "走吧！"]),
        ("एक।दो॥", ["एक।", "दो॥"]),
        ("አንድ።ሁለት፧", ["አንድ።", "ሁለት፧"]),
        ("كيف؟ نعم۔", ["كيف؟", " نعم۔"]),
        ("བོད།ཡིག།", ["བོད།", "ཡིག།"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    ends = [0, *sentence_ends(text)]
    assert [text[a:b] for a, b in zip(ends, ends[1:], strict=False)] == sentences
    assert all(map(ends_sentence, sentences)) and not ends_sentence("no end") and not ends_sentence("")


def test_graphemes_keep_marks_flags_and_emoji_whole() -> None:
    assert graphemes("e\u0301🇮🇹👩\u200d🚀नि") == ["e\u0301", "🇮🇹", "👩\u200d🚀", "नि"]
