"""Unicode is repaired where it is broken, and left alone where it is not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.corpus import tidy
from data_prep.text.normalize import normalize

FLAG = "葛\U000e0100飾 \U0001f3f4\U000e0067\U000e0062\U000e007f"  # after a Han character in one of its shapes


@pytest.mark.parametrize(
    ("broken", "good"),
    [
        ("the chief rÃ´le", "the chief rôle"),
        ("It costs Â£100", "It costs £100"),
        ("quoteâ€™s", "quote’s"),
        ("fe\u0301te", "féte"),
        ("two\u00ad-fold \ufeffzero\u200bwidth", "two-fold zerowidth"),
        ("private \ue000 bell \x07 gone", "private bell gone"),
        ("a\u2028b\x0cc\r\nd", "a\nb\nc\nd"),
        ("no\u00a0break\t\u3000space  \n\n end ", "no break space\nend"),
        ("a\u200cb\u180e \U000e0067\U000e0062", "ab"),
        # These are right as they are.
        ("“Quotes” – ‘kept’ … ﬁne", "“Quotes” – ‘kept’ … ﬁne"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🔬 works", "👩\u200d🔬 works"),
        ("ᠰᠠᠷ\u180eᠠ", "ᠰᠠᠷ\u180eᠠ"),
        (f"\u00ad{FLAG}", FLAG),
        ("Ânesse À Ñandú", "Ânesse À Ñandú"),
        ("", ""),
    ],
)
def test_normalize(broken: str, good: str) -> None:
    assert normalize(broken) == good


@given(st.text())
def test_result_is_in_corpus_form_and_stays_as_it_is(text: str) -> None:
    once = normalize(text)
    assert once == tidy(once.split("\n")) == unicodedata.normalize("NFC", once)
    assert not {c for c in once if unicodedata.category(c) in ("Cc", "Co", "Cs")} - {"\n"}
