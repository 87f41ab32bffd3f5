"""Images as sequences: the colours of a palette are the words, learned by k-means as for iGPT (Chen et al. 2020).

A text is an image as `sources/images.py` writes it, and exactly side * side tokens: the palette's colour nearest to
each pixel, row by row (raster), or along a Hilbert curve, on which neighbours are near in the image. `palette.json` has
the side, the order and the colours in hexadecimal, which are also the names in dict.txt.
"""

import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.config import ORDERS, TokenizerConfig
from data_prep.encoders import PALETTE, Encoder, Ids, Lengths
from data_prep.fairseq_dict import DICTIONARY, dictionary_text
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import write_json, write_text
from linformer_fairseq.io.shards import Done

SAMPLE_PIXELS = 1 << 18  # that k-means sees
NO_COLOUR = (255, 0, 255)  # shown for a symbol that is none, such as <mask>

Colours = npt.NDArray[np.uint8]


def learn_palette(parts: Sequence[Path], out: Path, config: TokenizerConfig) -> Done:
    """Write palette.json and dict.txt from files of images, a line each.

    The colours are those of the images if they have no more than asked, else the means of k-means.
    """
    texts = sorted(line for path in parts for line in path.read_text(encoding="utf-8").splitlines())
    side = math.isqrt(len(texts[0]) // 6) if texts else 0
    if config.order == "hilbert" and side & (side - 1):
        raise UsageError(f"--order hilbert: needs a side that is a power of two, and these images have {side} pixels")
    try:
        pixels = pixels_of(texts, side).reshape(-1, 3)
    except UsageError as error:
        raise UsageError(f"--colours and --grey-levels are for images, and {error}") from error
    sample = pixels[np.random.default_rng(0).permutation(len(pixels))[:SAMPLE_PIXELS]]
    if config.grey_levels:
        colours = np.rint(np.linspace(0, 255, config.grey_levels))[:, None].repeat(3, 1)
    else:
        colours = np.unique(sample, axis=0)
        if len(colours) > config.colours:
            colours = _means(sample, config.colours)
    names = [colour.hex() for colour in map(bytes, np.unique(np.rint(colours).astype(np.uint8), axis=0))]
    write_json(out / PALETTE, {"side": side, "order": config.order, "colours": names})
    write_text(out / DICTIONARY, dictionary_text(names, [0] * len(names)))
    return Done({"symbols": len(names), "sample_pixels": len(sample)}, [out / PALETTE, out / DICTIONARY])


def _means(pixels: Colours, number: int) -> npt.NDArray[Any]:
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    means = MiniBatchKMeans(number, batch_size=4096, n_init=1, random_state=0)
    with threadpool_limits(1):  # sums, and so the means, depend on the number of threads
        return np.asarray(means.fit(pixels).cluster_centers_)


def pixels_of(texts: Sequence[str], side: int) -> Colours:
    """The colours of images, (images, side², 3), row by row; UsageError for other texts."""
    try:
        pixels = [np.frombuffer(bytes.fromhex(text), np.uint8) for text in texts]
        return np.array(pixels).reshape(len(texts), side**2, 3)
    except ValueError:
        remedy = f"make it with `linformer prepare extract --source images --size {side}`"
        raise UsageError(f"a text is no image of {side} x {side} pixels; {remedy}") from None


def places(order: str, side: int) -> npt.NDArray[np.int64]:
    """The place, counted row by row, of each token of an image, (side²,)."""
    if order == "raster":
        return np.arange(side**2)
    x = y = np.zeros(1, np.int64)
    size = 1
    while size < side:  # four copies of the curve, the first and the last one mirrored so that their ends meet
        new_x = np.concatenate([y, x, x + size, 2 * size - 1 - y])
        x, y = new_x, np.concatenate([x, y + size, y + size, size - 1 - x])
        size *= 2
    return y * side + x


class PaletteEncoder(Encoder):
    """Images to the tokens of a palette and back."""

    files = (PALETTE, DICTIONARY)

    def __init__(self, folder: Path) -> None:
        path = folder / PALETTE
        self.side, self.order, colours = read_palette(path)
        self._set_symbols(path, dict(enumerate(colours)), colours, lambda name: True)
        self._colours = np.array([list(bytes.fromhex(name)) for name in colours], np.uint8)
        self._places = places(self.order, self.side)

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(self._colours)

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        pixels = pixels_of(texts, self.side)[:, self._places]
        nearest = self._tree.query(pixels.reshape(-1, 3))[1]
        return self._to_fairseq[nearest], np.full(len(texts), self.side**2)

    def _surface(self, name: str) -> bytes:
        return name.encode()

    def decode(self, ids: Sequence[int] | Ids) -> str:
        return " ".join(self._shown(ids))

    def picture(self, ids: Ids) -> Colours:
        """The image, (side, side, 3), of its tokens, (side²,)."""
        of_symbols = np.full((self.symbols, 3), NO_COLOUR, np.uint8)
        of_symbols[self._to_fairseq] = self._colours
        image = np.empty((self.side**2, 3), np.uint8)
        image[self._places] = of_symbols[ids]
        return image.reshape(self.side, self.side, 3)


def read_palette(path: Path) -> tuple[int, str, list[str]]:
    """Side, order and colours of a palette.json; UsageError if the file is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        side, order, colours = int(found["side"]), found["order"], [str(name) for name in found["colours"]]
        if side < 1 or order not in ORDERS or {len(bytes.fromhex(name)) for name in colours} != {3}:
            raise ValueError("a value in it is none")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        remedy = "make it again with `linformer prepare tokenizer --colours 512`"
        raise UsageError(f"{path}: not a palette of images ({error}); {remedy}") from error
    return side, order, colours
