"""Parts made in whole arrays beside documents that are encoded one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data_prep.parts
from data_prep.encoders import Ids, Lengths
from data_prep.fairseq_dict import EOS
from data_prep.indexed import write_joined
from data_prep.parts import encode_part, write_part

LONGEST = 8


class Letters:
    """A tokenizer whose tokens are the letters; it knows nothing of '-', as some know nothing of a character."""

    symbols = 200
    starts_word = np.zeros(200, dtype=np.bool_)
    files: tuple[str, ...] = ()
    names: Sequence[str] = ()

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        each = [[ord(letter) for letter in text.replace("-", "")] for text in texts]
        return np.array(sum(each, []), dtype=np.int64), np.array([len(ids) for ids in each], dtype=np.int64)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        return "".join(map(chr, ids))

    def flags(self, folder: Path) -> list[str]:
        return []


TEXT = st.lists(st.text("ab-", min_size=1, max_size=20), min_size=1, max_size=4).map("\n".join)


@given(st.lists(TEXT, max_size=8))
def test_documents_come_in_order_and_end_with_an_item_of_one_token(texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_prep.parts, "BATCH_CHARACTERS", 10)
        part = encode_part(texts, Letters(), LONGEST)
    kept = [[line for line in text.replace("-", "").split("\n") if line] for text in texts]
    kept = [lines for lines in kept if lines]
    expected = [i for lines in kept for line in [*lines, ""] for i in [*map(ord, line), EOS]]
    sizes = part.sizes.tolist()
    assert part.tokens.tolist() == expected and sum(sizes) == len(expected)
    assert sizes.count(1) == len(kept)  # fairseq's complete_doc relies on it
    assert all(size <= LONGEST for size in sizes)


def test_files_of_parts_join_to_the_same_tokens(tmp_path: Path) -> None:
    prefixes = [tmp_path / "0", tmp_path / "1"]
    for prefix, text in zip(prefixes, ("abcd\nef", "ghi"), strict=True):
        write_part(encode_part([text], Letters(), LONGEST), prefix)
    write_joined(tmp_path / "joined", prefixes, np.uint16)
    text = "".join("\n" if i == EOS else chr(i) for i in np.fromfile(tmp_path / "joined.bin", np.uint16))
    assert text == "abcd\nef\n\nghi\n\n"
