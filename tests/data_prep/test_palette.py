"""Images become tokens and come back; the palette depends on the images alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import encoders, palette
from data_prep.binarize import binarize
from data_prep.config import BinarizeConfig, TokenizerConfig
from data_prep.corpus import Document, write_file
from data_prep.encoded import read_data
from data_prep.fairseq_dict import EOS, UNK
from data_prep.palette import PaletteEncoder, places
from data_prep.tokenizer import make_tokenizer
from linformer_fairseq.errors import UsageError

SIDE = 4


def corpus_of(folder: Path, count: int = 30, side: int = SIDE, seed: int = 0) -> tuple[Path, list[str]]:
    """Random images in two files."""
    texts = [np.random.default_rng([seed, n]).bytes(3 * side**2).hex() for n in range(count)]
    for number in range(2):
        documents = [Document(text[:9], "images", "a", text) for text in texts[number::2]]
        write_file(documents, folder / f"{number}.parquet")
    return folder, texts


def encoder_of(folder: Path, **settings: object) -> PaletteEncoder:
    make_tokenizer(corpus_of(folder / "corpus")[0], folder / "tokenizer", TokenizerConfig(**settings))
    found = encoders.load(folder / "tokenizer")
    assert isinstance(found, PaletteEncoder)
    return found


@given(st.integers(0, 6))
def test_orders_are_permutations_and_the_curve_steps_to_neighbours(power: int) -> None:
    side = 2**power
    for order in ("raster", "hilbert"):
        assert sorted(places(order, side)) == [*range(side**2)]
    y, x = np.divmod(places("hilbert", side), side)
    assert (np.abs(np.diff(x)) + np.abs(np.diff(y)) == 1).all()


@pytest.mark.parametrize("order", ["raster", "hilbert"])
def test_an_image_of_the_palettes_colours_comes_back(tmp_path: Path, order: str) -> None:
    encoder = encoder_of(tmp_path, colours=1000, order=order)  # more than there are
    texts = corpus_of(tmp_path / "corpus")[1]
    ids, lengths = encoder.encode(texts)
    assert lengths.tolist() == [SIDE**2] * len(texts) and ids.min() > UNK
    for text, image in zip(texts, ids.reshape(-1, SIDE**2), strict=True):
        assert encoder.picture(image).tobytes().hex() == text
    first = np.frombuffer(bytes.fromhex(texts[0]), np.uint8).reshape(-1, 3)[places(order, SIDE)]
    assert encoder.decode(ids[: SIDE**2]).split() == [bytes(colour).hex() for colour in first]
    assert encoder.encode([])[0].size == 0


def test_a_token_is_the_nearest_colour(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, colours=20)
    assert encoder.symbols == 64 and len(encoder._colours) == 20
    texts = corpus_of(tmp_path / "other", seed=1)[1]
    pixels = palette.pixels_of(texts, SIDE).reshape(-1, 1, 3).astype(int)
    nearest = ((pixels - encoder._colours.astype(int)) ** 2).sum(-1).min(-1)
    ids = encoder.encode(texts)[0].reshape(-1, SIDE**2)
    found = np.concatenate([encoder.picture(image).reshape(-1, 3) for image in ids]).astype(int)
    assert (((pixels[:, 0] - found) ** 2).sum(-1) == nearest).all()


def test_the_palette_depends_on_the_images_alone(tmp_path: Path) -> None:
    """Not on the files or their order."""
    encoder_of(tmp_path / "one", colours=20)
    _, texts = corpus_of(tmp_path / "ignored")
    write_file((Document("x", "images", "a", text) for text in texts), tmp_path / "corpus/all.parquet")
    make_tokenizer(tmp_path / "corpus", tmp_path / "two/tokenizer", TokenizerConfig(colours=20))
    for name in encoders.load(tmp_path / "one/tokenizer").files:
        assert (tmp_path / "one/tokenizer" / name).read_bytes() == (tmp_path / "two/tokenizer" / name).read_bytes()


def test_grey_levels_are_even(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, grey_levels=5)
    assert encoder._colours.tolist() == [[value] * 3 for value in (0, 64, 128, 191, 255)]


def test_a_symbol_without_colour_shows(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, grey_levels=2)
    mask = encoder.names.index("<mask>")
    image = encoder.picture(np.full(SIDE**2, mask))
    assert (image == palette.NO_COLOUR).all()


@pytest.mark.parametrize("max_item_tokens", [5, 1000])
def test_a_document_is_one_image_in_the_stream(tmp_path: Path, max_item_tokens: int) -> None:
    encoder = encoder_of(tmp_path, colours=20)
    folder, texts = corpus_of(tmp_path / "split/train")
    binarize(tmp_path / "split", tmp_path / "tokenizer", tmp_path / "data", BinarizeConfig(max_item_tokens))
    tokens = read_data(tmp_path / "data/train").tokens.reshape(len(texts), SIDE**2 + 2)
    assert (tokens[:, -2:] == EOS).all()
    expected = encoder.encode(texts[::2] + texts[1::2])[0].reshape(len(texts), -1)
    assert (tokens[:, :-2] == expected).all()
    assert isinstance(encoders.load(tmp_path / "data"), PaletteEncoder)


def test_what_is_no_such_image_is_refused(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, colours=20)
    for texts in (["ab" * 3], ["words of a text"], ["zz" * 48], ["ab" * 24, "ab" * 24]):
        with pytest.raises(UsageError, match="no image of 4 x 4 pixels; make it with .*--size 4"):
            encoder.encode(texts)
    folder, _ = corpus_of(tmp_path / "odd", side=3)
    with pytest.raises(UsageError, match="--order hilbert: needs a side that is a power of two, .* 3 pixels"):
        make_tokenizer(folder, tmp_path / "hilbert", TokenizerConfig(colours=9, order="hilbert"))
    with pytest.raises(UsageError, match="--colours 2 and --grey-levels 2"):
        TokenizerConfig(colours=2, grey_levels=2)


@pytest.mark.parametrize("content", ["", "[]", '{"side": 4}', '{"side": 0, "order": "raster", "colours": []}'])
def test_a_damaged_palette_is_named(tmp_path: Path, content: str) -> None:
    encoder_of(tmp_path, colours=20)
    (tmp_path / "tokenizer/palette.json").write_text(content)
    with pytest.raises(UsageError, match=r"palette\.json: not a palette of images .*--colours"):
        encoders.load(tmp_path / "tokenizer")


def test_a_palette_is_imported_with_its_dictionary(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, colours=20)
    make_tokenizer(None, tmp_path / "again", TokenizerConfig(existing=str(tmp_path / "tokenizer")))
    assert encoders.load(tmp_path / "again").names == encoder.names
