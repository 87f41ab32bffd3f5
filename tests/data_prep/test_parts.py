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
from data_prep.parts import encode_part, slices_of, write_part

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


@given(st.lists(st.tuples(TEXT, st.integers(0, 2)), max_size=8))
def test_each_set_has_its_documents_in_order(documents: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_prep.parts, "BATCH_CHARACTERS", 10)
        part = encode_part(documents, 3, Letters(), LONGEST)
    tokens, sizes = part.tokens.tolist(), part.sizes.tolist()
    for number, counts in enumerate(part.counts):
        texts = [text.replace("-", "") for text, of_set in documents if of_set == number]
        kept = [[line for line in text.split("\n") if line] for text in texts]
        kept = [lines for lines in kept if lines]
        expected = [i for lines in kept for line in [*lines, ""] for i in [*map(ord, line), EOS]]
        found, tokens = tokens[: counts.tokens], tokens[counts.tokens :]
        items, sizes = sizes[: counts.items], sizes[counts.items :]
        assert found == expected and sum(items) == counts.tokens
        # Only the end of a document is an item of one token: fairseq's complete_doc relies on it.
        assert items.count(1) == counts.documents == len(kept)
        assert all(size <= LONGEST for size in items)
    assert not tokens and not sizes


def test_files_of_parts_join_to_the_same_tokens(tmp_path: Path) -> None:
    parts = [encode_part([(text, 0), (text[::-1], 1)], 2, Letters(), LONGEST) for text in ("abcd\nef", "ghi")]
    for number, part in enumerate(parts):
        write_part(part, tmp_path / str(number))
    for number in range(2):
        slices = [slices_of(tmp_path / str(n), part.counts)[number] for n, part in enumerate(parts)]
        write_joined(tmp_path / "joined", slices, np.uint16)
        text = "".join("\n" if i == EOS else chr(i) for i in np.fromfile(tmp_path / "joined.bin", np.uint16))
        assert text == ("abcd\nef\n\nghi\n\n" if number == 0 else "fe\ndcba\n\nihg\n\n")
