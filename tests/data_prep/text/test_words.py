"""Words are found in any script, and their hashes depend on nothing but themselves."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.text import words as module
from data_prep.text.words import ngram_hashes, words


def split(text: str) -> list[str]:
    found = words(text)
    return [found.ngram(i, 1) for i in range(len(found.hashes))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World! don't 3.5", ["hello", "world", "don", "t", "3", "5"]),
        ("Straße naïve", ["strasse", "naïve"]),
        ("你好 world、ABCです", ["你", "好", "world", "abc", "で", "す"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        (" -- \n", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert split(text) == expected


@given(st.lists(st.text("abé你 1", min_size=1), min_size=1))
def test_equal_words_and_ngrams_have_equal_hashes_wherever_they_stand(parts: list[str]) -> None:
    text = ", ".join(parts)
    found, names = words(text), split(text)
    for n in (1, 2, 3):
        hashes = ngram_hashes(found.hashes, n).tolist()
        grams = [tuple(names[i : i + n]) for i in range(len(names) - n + 1)]
        assert len(hashes) == len(grams)
        assert len(set(zip(grams, hashes, strict=True))) == len(set(grams)) == len(set(hashes))


def test_pieces_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "One two, three\nfour 你好 fünf " * 50
    whole = words(text)
    grams = ngram_hashes(whole.hashes, 5)
    monkeypatch.setattr(module, "PIECE", 40)
    pieces = words(text)
    for name in ("starts", "ends", "hashes"):
        assert np.array_equal(getattr(whole, name), getattr(pieces, name))
    assert np.array_equal(grams, ngram_hashes(pieces.hashes, 5))


def test_hashes_are_the_same_in_every_process() -> None:
    code = "from data_prep.text.words import *; print(words('naïve 你好 words').hashes.tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(words("naïve 你好 words").hashes.tolist())
    assert words("words").hashes[0] == 7723589401309432009
